// SPDX-License-Identifier: GPL-2.0
/*
 * The processor's side: feature bits and CPUID as an SNP host has them.
 *
 * Stands in for CPUID leaf 0x8000001f (APM volume 3, E.4.17) and for what the kernel concludes from
 * it at boot, which is before any module can speak. kvm-amd decides on these when it is loaded.
 */
#include <linux/cc_platform.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include <asm/coco.h>
#include <asm/cpufeature.h>
#include <asm/paravirt.h>
#include "standin.h"

#ifndef CONFIG_PARAVIRT_XXL
#error "CPUID is answered through pv_ops, which needs CONFIG_PARAVIRT_XXL (turn on CONFIG_XEN_PV)"
#endif

#define LEAF_HIGHEST_EXTENDED 0x80000000
#define LEAF_MEMORY_ENCRYPTION 0x8000001f
#define C_BIT 51		/* position of the encryption bit in a physical address */

static void (*native)(unsigned int *eax, unsigned int *ebx, unsigned int *ecx, unsigned int *edx);

static void answer_cpuid(unsigned int *eax, unsigned int *ebx, unsigned int *ecx,
			 unsigned int *edx)
{
	unsigned int leaf = *eax;

	native(eax, ebx, ecx, edx);
	if (leaf == LEAF_HIGHEST_EXTENDED && *eax < LEAF_MEMORY_ENCRYPTION)
		*eax = LEAF_MEMORY_ENCRYPTION;
	if (leaf == LEAF_MEMORY_ENCRYPTION) {
		*eax = BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(4); /* SME SEV PageFlushMsr SEV-ES SNP */
		*ebx = C_BIT | 1 << 6;	/* physical address space reduced by one bit */
		*ecx = MAX_ASID;
		*edx = MIN_SEV_ASID;
	}
}

/* Write to data of the kernel that is read-only after boot, through a second mapping. */
static int overwrite(void *address, const void *value, size_t length)
{
	struct page *page = pfn_to_page(__pa_symbol(address) >> PAGE_SHIFT);
	void *alias;

	if (offset_in_page(address) + length > PAGE_SIZE)
		return -ERANGE;
	alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;
	memcpy(alias + offset_in_page(address), value, length);
	vunmap(alias);
	return 0;
}

static int overwrite_symbol(unsigned long (*lookup)(const char *name), const char *name,
			    const void *value, size_t length)
{
	void *address = (void *)lookup(name);

	if (!address) {
		pr_err(PREFIX "the kernel has no symbol %s\n", name);
		return -ENOENT;
	}
	return overwrite(address, value, length);
}

/* The slot of pv_ops that holds native_cpuid: by value, since its place differs between kernels. */
static int take_cpuid(unsigned long (*lookup)(const char *name))
{
	void **slot = (void **)&pv_ops, *mine = answer_cpuid;
	int i;

	native = (void *)lookup("native_cpuid");
	for (i = 0; native && i < 64; i++)
		if (slot[i] == (void *)native)
			return overwrite(&slot[i], &mine, sizeof(mine));
	pr_err(PREFIX "native_cpuid is not in pv_ops: is this kernel running under Xen?\n");
	return -ENOENT;
}

int processor_init(unsigned long (*lookup)(const char *name))
{
	static const int features[] = {
		X86_FEATURE_SEV, X86_FEATURE_SEV_ES, X86_FEATURE_SEV_SNP,
		/* What SEV-ES asks of SVM, and the emulated processor has not got. */
		X86_FEATURE_NRIPS, X86_FEATURE_DECODEASSISTS, X86_FEATURE_FLUSHBYASID,
		X86_FEATURE_LBRV,
		/* What INIT2 may ask for in a VMSA, by its bit of CPUID 0x8000001f EAX, beside SEV. */
		X86_FEATURE_SEV + 7,	/* SNP_SECURE_TSC */
		X86_FEATURE_SEV + 13,	/* DEBUG_SWAP */
		X86_FEATURE_NO_NESTED_DATA_BP,
	};
	const enum cc_vendor vendor = CC_VENDOR_AMD;
	const u64 host_sev_snp = 1;	/* bit 0 of cc_flags: CC_ATTR_HOST_SEV_SNP */
	int i, rc;

	rc = overwrite_symbol(lookup, "cc_flags", &host_sev_snp, sizeof(host_sev_snp));
	if (!rc)
		rc = overwrite_symbol(lookup, "cc_vendor", &vendor, sizeof(vendor));
	if (!rc)
		rc = take_cpuid(lookup);
	for (i = 0; !rc && i < ARRAY_SIZE(features); i++)
		set_bit(features[i], (unsigned long *)boot_cpu_data.x86_capability);
	return rc;
}
