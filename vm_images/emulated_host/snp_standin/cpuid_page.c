// SPDX-License-Identifier: GPL-2.0
/*
 * The firmware's check of a CPUID page (firmware ABI 8.17.2, PAGE_TYPE_CPUID; the rules per leaf
 * are in the processor's PPR, "CPUID Policy Enforcement").
 *
 * Modelled: the table's form; that a leaf which is architectural (0-0xffff, 0x80000000-0x8000ffff)
 * but not in the firmware's list must be all zeros; and that leaves 0 and 0x80000000 may not
 * promise more leaves than there are. Values of the other leaves depend on the processor and pass
 * unchecked. A wrong value is corrected in the page, which is then refused; a malformed table is
 * refused as it is.
 */
#include "standin.h"

#define MAX_FUNCTIONS 64
#define HIGHEST_BASIC 0x10u
#define HIGHEST_EXTENDED 0x80000028u

struct cpuid_function {
	u32 eax_in, ecx_in;
	u64 xcr0_in, xss_in;
	u32 eax, ebx, ecx, edx;
	u64 reserved;
};

struct cpuid_page {
	u32 count;
	u32 reserved1;
	u64 reserved2;
	struct cpuid_function functions[MAX_FUNCTIONS];
};

static const u32 known[] = {
	0x0, 0x1, 0x2, 0x4, 0x5, 0x6, 0x7, 0xb, 0xd, 0xf, 0x10,
	0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005, 0x80000006,
	0x80000007, 0x80000008, 0x8000000a, 0x80000019, 0x8000001a, 0x8000001b, 0x8000001d,
	0x8000001e, 0x8000001f, 0x80000020, 0x80000021, 0x80000022, 0x80000023, 0x80000024,
	0x80000026,
};

static bool is_known(u32 leaf)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i] == leaf)
			return true;
	return false;
}

/* Correct one entry; true if it was right. */
static bool correct(struct cpuid_function *f)
{
	u32 highest = f->eax_in ? HIGHEST_EXTENDED : HIGHEST_BASIC;

	if ((f->eax_in & 0x7fffffff) > 0xffff)
		return true;		/* not architectural: the hypervisor's own leaves */
	if (f->reserved)
		return false;
	if (!is_known(f->eax_in)) {
		if (!f->eax && !f->ebx && !f->ecx && !f->edx)
			return true;
		f->eax = f->ebx = f->ecx = f->edx = 0;
		return false;
	}
	if ((f->eax_in & 0x7fffffff) == 0 && f->eax > highest) {
		f->eax = highest;
		return false;
	}
	return true;
}

/* Return the firmware's status; on INVALID_PARAM for a value, the page holds the right one. */
int cpuid_page_check(void *page)
{
	struct cpuid_page *table = page;
	bool right = true;
	u32 i;

	if (table->reserved1 || table->reserved2 || table->count > MAX_FUNCTIONS)
		return SEV_RET_INVALID_PARAM;
	for (i = 0; i < table->count; i++)
		right &= correct(&table->functions[i]);
	return right ? SEV_RET_SUCCESS : SEV_RET_INVALID_PARAM;
}
