// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM gave to the firmware for the guest whose launch started last, as it was given:
 * /proc/kvmharness_snp_launch, for tests that compare it with what a VMM gave to KVM.
 *
 *   policy, gosvw, tsc_khz, migration, imi   LAUNCH_START (migration: an agent, imi: an image)
 *   asid                                     ACTIVATE
 *   rmp.GPA  each page that is the ASID's now: its state, whether of 2 MiB, whether a VMSA
 *   page.N   a LAUNCH_UPDATE that succeeded: guest address, type, IMI, permissions of VMPL 1 to 3,
 *            SHA-384 of the contents before the firmware changed any; VMSAs among them
 *   vmsa.N   the contents of the Nth VMSA
 *   finish   how many LAUNCH_FINISH reached the guest; then what the last of them held
 *   finish.* flags: bit 0 an ID block, bit 1 an author key, bit 2 no VCEK; what the flags promise
 */
#include <linux/proc_fs.h>
#include <linux/string.h>
#include "standin.h"

#define PAGES 2048
#define VMSAS 8
#define ID_BLOCK_BYTES 96

static struct {
	u64 context;
	u64 policy;
	u8 gosvw[16];
	u32 tsc_khz;
	bool migration, imi;
	u32 asid;
	u32 pages, vmsas;
	u32 finished, flags;
	u8 host_data[32], id_block[ID_BLOCK_BYTES], id_auth[SHA384_BYTES];
} launch;

static struct {
	u64 gpa;
	u8 type, imi, vmpl[3];
	u8 contents[SHA384_BYTES];
} pages[PAGES];

static u8 vmsas[VMSAS][PAGE_SIZE];

/* All are called with the firmware's lock held. */

void record_start(struct sev_data_snp_launch_start *command)
{
	memset(&launch, 0, sizeof(launch));
	launch.context = command->gctx_paddr;
	launch.policy = command->policy;
	launch.tsc_khz = command->desired_tsc_khz;
	launch.migration = command->ma_en || command->ma_gctx_paddr;
	launch.imi = command->imi_en;
	memcpy(launch.gosvw, command->gosvw, sizeof(launch.gosvw));
}

void record_activate(struct sev_data_snp_activate *command)
{
	if (command->gctx_paddr == launch.context)
		launch.asid = command->asid;
}

void record_page(struct sev_data_snp_launch_update *command, u64 gpa, const u8 *contents)
{
	bool vmsa = command->page_type == SNP_PAGE_TYPE_VMSA;

	if (command->gctx_paddr != launch.context)
		return;
	if (launch.pages < PAGES) {
		pages[launch.pages].gpa = gpa;
		pages[launch.pages].type = command->page_type;
		pages[launch.pages].imi = command->imi_page;
		pages[launch.pages].vmpl[0] = command->vmpl1_perms;
		pages[launch.pages].vmpl[1] = command->vmpl2_perms;
		pages[launch.pages].vmpl[2] = command->vmpl3_perms;
		sha384(contents, PAGE_SIZE, pages[launch.pages].contents);
	}
	launch.pages++;
	if (vmsa && launch.vmsas < VMSAS)
		memcpy(vmsas[launch.vmsas], contents, PAGE_SIZE);
	launch.vmsas += vmsa;
}

void record_finish(struct sev_data_snp_launch_finish *command, const u8 *block, const u8 *auth)
{
	if (command->gctx_paddr != launch.context)
		return;
	launch.finished++;
	launch.flags = command->id_block_en | command->auth_key_en << 1 |
		       command->vcek_disabled << 2;
	memcpy(launch.host_data, command->host_data, sizeof(launch.host_data));
	if (command->id_block_en) {
		memcpy(launch.id_block, block, sizeof(launch.id_block));
		sha384(auth, PAGE_SIZE, launch.id_auth);
	}
}

static void show_hex(struct seq_file *out, const char *name, const u8 *data, size_t size)
{
	size_t i;

	seq_printf(out, "%s=", name);
	for (i = 0; i < size; i += 16)
		seq_printf(out, "%16phN", data + i);
	seq_putc(out, '\n');
}

void record_report(struct seq_file *out)
{
	char name[16];
	u32 i;

	seq_printf(out, "policy=%#llx\ntsc_khz=%u\nmigration=%d\nimi=%d\nasid=%u\n", launch.policy,
		   launch.tsc_khz, launch.migration, launch.imi, launch.asid);
	show_hex(out, "gosvw", launch.gosvw, sizeof(launch.gosvw));
	rmp_report_asid(out, launch.asid);
	seq_printf(out, "pages=%u\nvmsas=%u\n", launch.pages, launch.vmsas);
	for (i = 0; i < min_t(u32, launch.pages, PAGES); i++)
		seq_printf(out, "page.%u=%#llx %u %u %u %u %u %48phN\n", i, pages[i].gpa,
			   pages[i].type, pages[i].imi, pages[i].vmpl[0], pages[i].vmpl[1],
			   pages[i].vmpl[2], pages[i].contents);
	for (i = 0; i < min_t(u32, launch.vmsas, VMSAS); i++) {
		snprintf(name, sizeof(name), "vmsa.%u", i);
		show_hex(out, name, vmsas[i], PAGE_SIZE);
	}
	seq_printf(out, "finish=%u\nfinish.flags=%u\n", launch.finished, launch.flags);
	show_hex(out, "finish.host_data", launch.host_data, sizeof(launch.host_data));
	show_hex(out, "finish.id_block", launch.id_block, sizeof(launch.id_block));
	show_hex(out, "finish.id_auth_sha384", launch.id_auth, sizeof(launch.id_auth));
}
