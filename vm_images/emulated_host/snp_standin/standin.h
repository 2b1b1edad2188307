/* SPDX-License-Identifier: GPL-2.0 */
/*
 * snp_standin: an ordinary (emulated) AMD machine looks like an SEV-SNP host to an unmodified
 * kvm-amd.ko, so that the launch half of SNP, KVM_SEV_INIT2 to KVM_SEV_SNP_LAUNCH_FINISH with
 * kvm_gmem_populate() in between, can be driven and watched. Nothing confidential can be run.
 *
 * What stands in for what:
 *
 *   processor.c   the processor's feature bits and CPUID leaf 0x8000001f
 *   rmp.c         the Reverse Map Table and the RMPUPDATE and PSMASH instructions
 *                 (APM volume 2, 15.36 "Secure Nested Paging"; volume 3, RMPUPDATE, PSMASH)
 *   firmware.c    the secure processor's firmware
 *   cpuid_page.c  its check of CPUID pages
 *                 (SEV Secure Nested Paging Firmware ABI, publication 56860, revision 1.55;
 *                 checks are made in the order of AMD's published firmware, AMD-ASPFW)
 *   record.c      what KVM gave to the firmware: /proc/kvmharness_snp_launch
 *   inject.c      failures on purpose, of the firmware's commands and of the RMP
 *   report.c      /proc/kvmharness_snp: what a test asks afterwards
 *   main.c        puts these in the place of the kernel's functions that reach the silicon
 *
 * Load order: kvm, ccp, snp_standin, kvm-amd. It can't be unloaded.
 *
 * One source serves every kernel from 6.12 on, and a build for one can be made to load on another
 * (kvmharness/hosts/transplant.py). So it keeps to functions and structures that did not change:
 * no kmalloc() (its size classes are inlined), no spinlocks and no `current` (per-CPU layout).
 */
#ifndef SNP_STANDIN_H
#define SNP_STANDIN_H

#include <linux/atomic.h>
#include <linux/mm.h>
#include <linux/psp-sev.h>
#include <linux/seq_file.h>
#include <asm/sev.h>

#define PREFIX "snp_standin: "
#define SHA384_BYTES 48
#define MAX_ASID 509U		/* as CPUID 0x8000001f reports it */
#define MIN_SEV_ASID 32U	/* ASIDs below are SEV-ES's and SNP's: few, to be used again soon */

/* ------------------------------------------------------------------ rmp.c */

/*
 * One 4 KiB page's entry, as far as software can tell (APM volume 2, table 15-36). Kept as one
 * value in an xarray; a page without an entry is the hypervisor's.
 */
union rmp_entry {
	struct {
		u64 assigned : 1;
		u64 validated : 1;
		u64 immutable : 1;
		u64 vmsa : 1;
		u64 large : 1;		/* part of a 2 MiB entry */
		u64 asid : 12;
		u64 gfn : 40;
	};
	u64 raw;
};

/* Firmware ABI, chapter 5, "Page States"; those that KVM's launch does not reach are left out. */
enum page_state {
	HYPERVISOR, FIRMWARE, RECLAIM, CONTEXT, PRE_GUEST, GUEST_INVALID, GUEST_VALID,
	PAGE_STATES
};

enum page_state rmp_state(union rmp_entry entry);
union rmp_entry rmp_get(u64 pfn);
int rmp_put(u64 pfn, union rmp_entry entry);
void rmp_seal(u64 pfn);
void rmp_count(unsigned long counts[PAGE_STATES]);
unsigned long rmp_pages_of_asid(u32 asid);
void rmp_report_asid(struct seq_file *out, u32 asid);
void rmp_forget(void);
void rmp_report(struct seq_file *out);

/* In the place of the kernel's functions of like names (arch/x86/virt/svm/sev.c). */
int standin_rmp_make_private(u64 pfn, u64 gpa, enum pg_level level, u32 asid, bool immutable);
int standin_rmp_make_shared(u64 pfn, enum pg_level level);
int standin_psmash(u64 pfn);
int standin_lookup_rmpentry(u64 pfn, bool *assigned, int *level);

/* ------------------------------------------------------------- firmware.c */

/* A guest's state (firmware ABI, chapter 6, "Guest Management"). */
enum guest_state { GSTATE_INIT, GSTATE_LAUNCH, GSTATE_RUNNING };

/*
 * The guest context, GCTX. It lies in the page that the kernel donates with SNP_GCTX_CREATE, as on
 * hardware, where that page is encrypted.
 */
struct guest_context {
	enum guest_state state;
	u32 asid;		/* 0: not activated */
	u64 policy;
	u32 pages;		/* taken by SNP_LAUNCH_UPDATE, VMSAs included */
	u32 vmsas;
	bool id_block;
	u8 digest[SHA384_BYTES];	/* GCTX.LD */
	u8 host_data[32];
};

int firmware_command(int command, void *data, int *status);
void *firmware_alloc_page(gfp_t gfp);
void firmware_free_page(void *address);
void firmware_report(struct seq_file *out);
void firmware_report_launch(struct seq_file *out);

/* --------------------------------------------------------------- record.c */

void record_start(struct sev_data_snp_launch_start *command);
void record_activate(struct sev_data_snp_activate *command);
void record_page(struct sev_data_snp_launch_update *command, u64 gpa, const u8 *contents);
void record_finish(struct sev_data_snp_launch_finish *command, const u8 *block, const u8 *auth);
void record_report(struct seq_file *out);

/* --------------------------------------------------------------- inject.c */

/* What can fail on purpose beside the firmware's commands, whose numbers are below. */
enum injected_call {
	RMP_MAKE_PRIVATE = 0x100, RMP_MAKE_SHARED, PSMASH, LOOKUP_RMPENTRY, ALLOC_FIRMWARE_PAGE,
	PLATFORM_INIT,
};

bool injected(u32 call, int *result);
int injections_struck(void);

/* ------------------------------------------- cpuid_page.c, sha384.c, report.c, processor.c */

int cpuid_page_check(void *page);
void sha384(const void *data, size_t length, u8 digest[SHA384_BYTES]);
int report_init(void);
int processor_init(unsigned long (*lookup)(const char *name));

#endif
