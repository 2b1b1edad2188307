// SPDX-License-Identifier: GPL-2.0
/*
 * The functions that kvm-intel calls to reach the TDX module.
 *
 * On a kernel with CONFIG_INTEL_TDX_HOST they are in arch/x86/virt/vmx/tdx/tdx.c and end in the
 * SEAMCALL instruction. They load the same registers here and end in the software TDX module. The
 * calls of such a kernel are led here; one without gets the functions from here, exported.
 */
#include <linux/export.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/moduleparam.h>
#include <asm/archrandom.h>
#include "tdx_standin.h"

/* As the kernel's sc_retry(): the module may be out of entropy for a moment. */
static u64 seamcall(enum tdh_leaf leaf, struct tdx_module_args *regs)
{
	int tries = RDRAND_RETRY_LOOPS;
	u64 status;

	do {
		struct tdx_module_args in = *regs;

		status = tdx_module_call(leaf, &in);
		if (status != TDX_RND_NO_ENTROPY || tries == 1)
			*regs = in;
	} while (status == TDX_RND_NO_ENTROPY && --tries);
	return status;
}

static u64 on_td(enum tdh_leaf leaf, struct tdx_td *td)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(td->tdr_page) };

	return seamcall(leaf, &regs);
}

/* A leaf on a guest address: RCX address and level, RDX the TD, R8 and R9 pages. */
static u64 on_gpa(enum tdh_leaf leaf, struct tdx_td *td, u64 gpa, enum pg_level level, u64 page,
		  u64 source, u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args regs = {
		.rcx = gpa | (level - PG_LEVEL_4K),
		.rdx = page_to_phys(td->tdr_page),
		.r8 = page,
		.r9 = source,
	};
	u64 status = seamcall(leaf, &regs);

	*ext_err1 = regs.rcx;
	*ext_err2 = regs.rdx;
	return status;
}

/* ---------------------------------------------------------------- TDs */

u64 tdh_mng_create(struct tdx_td *td, u16 hkid)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(td->tdr_page), .rdx = hkid };

	return seamcall(TDH_MNG_CREATE, &regs);
}

u64 tdh_mng_key_config(struct tdx_td *td)
{
	return on_td(TDH_MNG_KEY_CONFIG, td);
}

u64 tdh_mng_addcx(struct tdx_td *td, struct page *tdcs_page)
{
	struct tdx_module_args regs = {
		.rcx = page_to_phys(tdcs_page), .rdx = page_to_phys(td->tdr_page),
	};

	return seamcall(TDH_MNG_ADDCX, &regs);
}

u64 tdh_mng_init(struct tdx_td *td, u64 td_params, u64 *extended_err)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(td->tdr_page), .rdx = td_params };
	u64 status = seamcall(TDH_MNG_INIT, &regs);

	*extended_err = regs.rcx;
	return status;
}

u64 tdh_mng_rd(struct tdx_td *td, u64 field, u64 *data)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(td->tdr_page), .rdx = field };
	u64 status = seamcall(TDH_MNG_RD, &regs);

	*data = regs.r8;
	return status;
}

u64 tdh_mng_vpflushdone(struct tdx_td *td)
{
	return on_td(TDH_MNG_VPFLUSHDONE, td);
}

u64 tdh_mng_key_freeid(struct tdx_td *td)
{
	return on_td(TDH_MNG_KEY_FREEID, td);
}

/* ---------------------------------------------------------------- vCPUs */

u64 tdh_vp_create(struct tdx_td *td, struct tdx_vp *vp)
{
	struct tdx_module_args regs = { .rcx = vp->tdvpr_pa, .rdx = page_to_phys(td->tdr_page) };

	return seamcall(TDH_VP_CREATE, &regs);
}

u64 tdh_vp_addcx(struct tdx_vp *vp, struct page *tdcx_page)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(tdcx_page), .rdx = vp->tdvpr_pa };

	return seamcall(TDH_VP_ADDCX, &regs);
}

u64 tdh_vp_init(struct tdx_vp *vp, u64 initial_rcx, u32 x2apicid)
{
	struct tdx_module_args regs = { .rcx = vp->tdvpr_pa, .rdx = initial_rcx, .r8 = x2apicid };

	return seamcall(TDH_VP_INIT, &regs);
}

u64 tdh_vp_rd(struct tdx_vp *vp, u64 field, u64 *data)
{
	struct tdx_module_args regs = { .rcx = vp->tdvpr_pa, .rdx = field };
	u64 status = seamcall(TDH_VP_RD, &regs);

	*data = regs.r8;
	return status;
}

u64 tdh_vp_wr(struct tdx_vp *vp, u64 field, u64 data, u64 mask)
{
	struct tdx_module_args regs = {
		.rcx = vp->tdvpr_pa, .rdx = field, .r8 = data, .r9 = mask,
	};

	return seamcall(TDH_VP_WR, &regs);
}

u64 tdh_vp_flush(struct tdx_vp *vp)
{
	struct tdx_module_args regs = { .rcx = vp->tdvpr_pa };

	return seamcall(TDH_VP_FLUSH, &regs);
}

/* KVM calls this one from code that must not be instrumented, and without the retry. */
noinstr u64 tdh_vp_enter(struct tdx_vp *vp, struct tdx_module_args *args)
{
	u64 status;

	args->rcx = vp->tdvpr_pa;
	instrumentation_begin();
	status = tdx_module_call(TDH_VP_ENTER, args);
	instrumentation_end();
	return status;
}

/* ---------------------------------------------------------------- guest memory */

u64 tdh_mem_sept_add(struct tdx_td *td, u64 gpa, enum pg_level level, struct page *page,
		     u64 *ext_err1, u64 *ext_err2)
{
	return on_gpa(TDH_MEM_SEPT_ADD, td, gpa, level, page_to_phys(page), 0, ext_err1, ext_err2);
}

u64 tdh_mem_page_add(struct tdx_td *td, u64 gpa, kvm_pfn_t pfn, struct page *source,
		     u64 *ext_err1, u64 *ext_err2)
{
	return on_gpa(TDH_MEM_PAGE_ADD, td, gpa, PG_LEVEL_4K, PFN_PHYS(pfn), page_to_phys(source),
		      ext_err1, ext_err2);
}

u64 tdh_mem_page_aug(struct tdx_td *td, u64 gpa, enum pg_level level, kvm_pfn_t pfn,
		     u64 *ext_err1, u64 *ext_err2)
{
	return on_gpa(TDH_MEM_PAGE_AUG, td, gpa, level, PFN_PHYS(pfn), 0, ext_err1, ext_err2);
}

u64 tdh_mem_range_block(struct tdx_td *td, u64 gpa, enum pg_level level, u64 *ext_err1,
			u64 *ext_err2)
{
	return on_gpa(TDH_MEM_RANGE_BLOCK, td, gpa, level, 0, 0, ext_err1, ext_err2);
}

u64 tdh_mem_track(struct tdx_td *td)
{
	return on_td(TDH_MEM_TRACK, td);
}

u64 tdh_mem_page_remove(struct tdx_td *td, u64 gpa, enum pg_level level, u64 *ext_err1,
			u64 *ext_err2)
{
	return on_gpa(TDH_MEM_PAGE_REMOVE, td, gpa, level, 0, 0, ext_err1, ext_err2);
}

/* ---------------------------------------------------------------- measurement */

u64 tdh_mr_extend(struct tdx_td *td, u64 gpa, u64 *ext_err1, u64 *ext_err2)
{
	return on_gpa(TDH_MR_EXTEND, td, gpa, PG_LEVEL_4K, 0, 0, ext_err1, ext_err2);
}

u64 tdh_mr_finalize(struct tdx_td *td)
{
	return on_td(TDH_MR_FINALIZE, td);
}

/* ---------------------------------------------------------------- physical memory */

u64 tdh_phymem_page_reclaim(struct page *page, u64 *tdx_pt, u64 *tdx_owner, u64 *tdx_size)
{
	struct tdx_module_args regs = { .rcx = page_to_phys(page) };
	u64 status = seamcall(TDH_PHYMEM_PAGE_RECLAIM, &regs);

	*tdx_pt = regs.rcx;
	*tdx_owner = regs.rdx;
	*tdx_size = regs.r8;
	return status;
}

u64 tdh_phymem_cache_wb(bool resume)
{
	struct tdx_module_args regs = { .rcx = resume };

	return seamcall(TDH_PHYMEM_CACHE_WB, &regs);
}

/* Emulated memory has no key ID bits: the address goes in without, and the key beside it. */
static u64 write_back(u64 address, u64 hkid)
{
	struct tdx_module_args regs = { .rcx = address, .rdx = hkid };

	return seamcall(TDH_PHYMEM_PAGE_WBINVD, &regs);
}

u64 tdh_phymem_page_wbinvd_tdr(struct tdx_td *td)
{
	return write_back(page_to_phys(td->tdr_page), 0);
}

u64 tdh_phymem_page_wbinvd_hkid(u64 hkid, kvm_pfn_t pfn)
{
	return write_back(PFN_PHYS(pfn), hkid);
}

/*
 * The kernel clears pages here on processors with the partial-write erratum only. KVM has to call it
 * for each page that it gets back, and that is seen to.
 */
void tdx_quirk_reset_paddr(unsigned long base, unsigned long size)
{
	unsigned long page;

	for (page = base; page < base + size; page += PAGE_SIZE)
		tdx_module_page_reset(page);
}

/* ---------------------------------------------------------------- the module as a whole */

const struct tdx_sys_info *tdx_get_sysinfo(void)
{
	return tdx_module_info();
}

static DEFINE_IDA(keyids);

int tdx_guest_keyid_alloc(void)
{
	if (tdx_module_fails(KEYID_ALLOC))
		return -ENOSPC;
	return ida_alloc_range(&keyids, FIRST_KEYID, FIRST_KEYID + KEYIDS - 1, GFP_KERNEL);
}

void tdx_guest_keyid_free(unsigned int keyid)
{
	ida_free(&keyids, keyid);
}

/* The keys of TDs that failures on purpose left behind, with all that the module has of them. */
static int forget(const char *text, const struct kernel_param *param)
{
	tdx_module_forget();
	ida_destroy(&keyids);
	return 0;
}

static const struct kernel_param_ops forget_ops = { .set = forget };
module_param_cb(forget, &forget_ops, NULL, 0200);

u32 tdx_get_nr_guest_keyids(void)
{
	return KEYIDS;
}

/* ---------------------------------------------------------------- how kvm-intel gets to them */

/* All that kvm-intel calls, but for tdh_vp_enter(). */
#define FUNCTIONS(EACH) \
	EACH(tdh_mng_create) EACH(tdh_mng_key_config) EACH(tdh_mng_addcx) \
	EACH(tdh_mng_init) EACH(tdh_mng_rd) EACH(tdh_mng_vpflushdone) \
	EACH(tdh_mng_key_freeid) EACH(tdh_vp_create) EACH(tdh_vp_addcx) EACH(tdh_vp_init) \
	EACH(tdh_vp_rd) EACH(tdh_vp_wr) EACH(tdh_vp_flush) EACH(tdh_mem_sept_add) \
	EACH(tdh_mem_page_add) EACH(tdh_mem_page_aug) EACH(tdh_mem_range_block) \
	EACH(tdh_mem_track) EACH(tdh_mem_page_remove) EACH(tdh_mr_extend) \
	EACH(tdh_mr_finalize) EACH(tdh_phymem_page_reclaim) EACH(tdh_phymem_cache_wb) \
	EACH(tdh_phymem_page_wbinvd_tdr) EACH(tdh_phymem_page_wbinvd_hkid) \
	EACH(tdx_quirk_reset_paddr) EACH(tdx_get_sysinfo) EACH(tdx_guest_keyid_alloc) \
	EACH(tdx_guest_keyid_free) EACH(tdx_get_nr_guest_keyids)

#ifdef KERNEL_HAS_TDX

#define LED_HERE(function) { .name = #function, .to = function },

static struct replacement replacements[] = { FUNCTIONS(LED_HERE) {} };

/* Not tdh_vp_enter(), which ftrace can't reach: its SEAMCALL is answered (vmx_cpu.c). */
int seamcalls_start(void)
{
	return redirect_all(replacements);
}

#else

#define EXPORTED(function) EXPORT_SYMBOL_GPL(function);

FUNCTIONS(EXPORTED)
EXPORT_SYMBOL_GPL(tdh_vp_enter);

int seamcalls_start(void)
{
	return 0;
}

#endif
