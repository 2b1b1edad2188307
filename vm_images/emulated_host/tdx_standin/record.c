// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM gave to the TDX module for the TD that was initialized last, as it was given:
 * /proc/kvmharness_tdx_launch, for tests that compare it with what a VMM gave to KVM.
 */
#include <linux/io.h>
#include <linux/spinlock.h>
#include "tdx_module.h"

#define PAGES 2048
#define VCPUS 16
#define FIELDS 16

static struct {
	struct td *td;
	struct td_params params;
	u16 hkid;
	unsigned int pages, vcpus;
} launch;

static struct {
	u64 gpa;
	u8 contents[SHA384_DIGEST_SIZE];
	u16 extended; /* a bit for each of the page's sixteen chunks */
} pages[PAGES];

static struct {
	u64 rcx;
	u32 x2apicid;
	unsigned int fields;
	struct vcpu_field field[FIELDS];
} vcpus[VCPUS];

void record_init(struct td *td)
{
	memset(&launch, 0, sizeof(launch));
	launch.td = td;
	launch.params = td->params;
	launch.hkid = td->hkid;
}

void record_vcpu(struct td *td, u64 rcx, u32 x2apicid)
{
	if (td != launch.td || launch.vcpus == VCPUS)
		return;
	memset(&vcpus[launch.vcpus], 0, sizeof(vcpus[0]));
	vcpus[launch.vcpus].rcx = rcx;
	vcpus[launch.vcpus].x2apicid = x2apicid;
	launch.vcpus++;
}

/* The fields that are written to a vCPU, each as it was last, by their IDs. */
void record_fields(struct vcpu *vcpu)
{
	if (vcpu->td != launch.td || vcpu->number >= VCPUS)
		return;
	vcpus[vcpu->number].fields = vcpu->fields;
	memcpy(vcpus[vcpu->number].field, vcpu->field, sizeof(vcpu->field));
}

void record_page(struct td *td, u64 gpa, const void *contents)
{
	if (td != launch.td || launch.pages == PAGES)
		return;
	pages[launch.pages].gpa = gpa;
	pages[launch.pages].extended = 0;
	sha384(contents, PAGE_SIZE, pages[launch.pages].contents);
	launch.pages++;
}

void record_extend(struct td *td, u64 gpa)
{
	unsigned int i = launch.pages;

	/* The page that was added last at that address. */
	while (td == launch.td && i--) {
		if (pages[i].gpa == (gpa & PAGE_MASK)) {
			pages[i].extended |= BIT(offset_in_page(gpa) / 256);
			return;
		}
	}
}

/*
 * No lock: a test asks when its launch stands still. What is torn by another's is a test's that
 * does not look.
 */
void record_show(struct seq_file *seq)
{
	const struct td_params *params = &launch.params;
	unsigned int i, j;

	seq_printf(seq, "attributes=%#llx\nxfam=%#llx\nmax_vcpus=%u\neptp_controls=%#llx\n",
		   params->attributes, params->xfam, params->max_vcpus, params->eptp_controls);
	seq_printf(seq, "exec_controls=%#llx\ntsc_frequency=%u\nhkid=%u\n", params->exec_controls,
		   params->tsc_frequency, launch.hkid);
	seq_printf(seq, "mrconfigid=%48phN\nmrowner=%48phN\nmrownerconfig=%48phN\n",
		   params->mrconfigid, params->mrowner, params->mrownerconfig);
	for (i = 0; i < CPUID_CONFIGS; i++)
		seq_printf(seq, "cpuid.%#llx=%#x %#x %#x %#x\n",
			   tdx_module_info()->td_conf.cpuid_config_leaves[i], params->cpuid[i][0],
			   params->cpuid[i][1], params->cpuid[i][2], params->cpuid[i][3]);
	seq_printf(seq, "vcpus=%u\npages=%u\n", launch.vcpus, launch.pages);
	for (i = 0; i < launch.vcpus; i++) {
		seq_printf(seq, "vcpu.%u=%#llx %u\n", i, vcpus[i].rcx, vcpus[i].x2apicid);
		for (j = 0; j < vcpus[i].fields; j++)
			seq_printf(seq, "vcpu.%u.%#llx=%#llx\n", i, vcpus[i].field[j].id,
				   vcpus[i].field[j].value);
	}
	for (i = 0; i < launch.pages; i++)
		seq_printf(seq, "page.%u=%#llx %#x %48phN\n", i, pages[i].gpa, pages[i].extended,
			   pages[i].contents);
}
