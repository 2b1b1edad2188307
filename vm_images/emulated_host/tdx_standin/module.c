// SPDX-License-Identifier: GPL-2.0
/* The software TDX module as the kernel calls it: a leaf number and registers go in. */
#include <linux/lockdep.h>
#include <linux/spinlock.h>
#include "tdx_module.h"

DEFINE_SPINLOCK(module_lock);
u64 seamcalls;

static u64 call_leaf(enum tdh_leaf leaf, struct tdx_module_args *regs)
{
	u64 rcx = regs->rcx, rdx = regs->rdx;

	switch (leaf) {
	case TDH_MNG_CREATE:
		return mng_create(rcx, rdx);
	case TDH_MNG_KEY_CONFIG:
		return mng_key_config(td_of(rcx));
	case TDH_MNG_ADDCX:
		return mng_addcx(rcx, td_of(rdx));
	case TDH_MNG_INIT:
		return mng_init(td_of(rcx), rdx, &regs->rcx);
	case TDH_MNG_RD:
		return mng_rd(td_of(rcx), rdx, &regs->r8);
	case TDH_MNG_VPFLUSHDONE:
		return mng_vpflushdone(td_of(rcx));
	case TDH_MNG_KEY_FREEID:
		return mng_key_freeid(td_of(rcx));
	case TDH_VP_CREATE:
		return vp_create(rcx, td_of(rdx));
	case TDH_VP_ADDCX:
		return vp_addcx(rcx, vcpu_of(rdx));
	case TDH_VP_INIT:
		return vp_init(vcpu_of(rcx), rdx, regs->r8);
	case TDH_VP_RD:
		return vp_rd_wr(vcpu_of(rcx), regs, false);
	case TDH_VP_WR:
		return vp_rd_wr(vcpu_of(rcx), regs, true);
	case TDH_VP_FLUSH:
		return vp_flush(vcpu_of(rcx));
	case TDH_VP_ENTER: /* no processor here could: the vCPU is dead, the TD and the host are not */
		return TDX_NON_RECOVERABLE_VCPU;
	case TDH_PHYMEM_CACHE_WB:
		return phymem_cache_wb();
	case TDH_PHYMEM_PAGE_WBINVD:
		return phymem_page_wbinvd(rcx, rdx);
	case TDH_PHYMEM_PAGE_RECLAIM:
		return phymem_page_reclaim(regs);
	case TDH_MEM_TRACK:
		return mem_track(td_of(rcx));
	case TDH_MR_FINALIZE:
		return mr_finalize(td_of(rcx));
	default:
		break;
	}
	/* What follows works on guest addresses, and leaves RCX and RDX 0 but for sept_error(). */
	regs->rcx = regs->rdx = 0;
	switch (leaf) {
	case TDH_MEM_SEPT_ADD:
		return mem_sept_add(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_ADD:
		return mem_page_add(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_AUG:
		return mem_page_aug(td_of(rdx), rcx, regs);
	case TDH_MR_EXTEND:
		return mr_extend(td_of(rdx), rcx, regs);
	case TDH_MEM_RANGE_BLOCK:
		return mem_range_block(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_REMOVE:
		return mem_page_remove(td_of(rdx), rcx, regs);
	default:
		return TDX_OPERAND_INVALID | OPERAND_RAX;
	}
}

/* Whether what is no SEAMCALL is to fail now. */
bool tdx_module_fails(u32 call)
{
	unsigned long flags;
	u64 status;
	bool fails;

	spin_lock_irqsave(&module_lock, flags);
	fails = injected(call, &status);
	spin_unlock_irqrestore(&module_lock, flags);
	return fails;
}

void tdx_module_page_reset(u64 page)
{
	unsigned long flags;

	spin_lock_irqsave(&module_lock, flags);
	paid(page, OWES_RESET);
	spin_unlock_irqrestore(&module_lock, flags);
}

void tdx_module_forget(void)
{
	unsigned long flags;

	spin_lock_irqsave(&module_lock, flags);
	forget_tds();
	spin_unlock_irqrestore(&module_lock, flags);
}

/*
 * KVM has a leaf called on other processors, in an interrupt, where lockdep allows no lock that may
 * sleep on a real-time kernel. SEAMCALL takes none: this one stands for the inside of the TDX module.
 */
static DEFINE_WAIT_OVERRIDE_MAP(inside, LD_WAIT_CONFIG);

/* May be called with interrupts off and other locks held: nothing here sleeps. */
u64 tdx_module_call(enum tdh_leaf leaf, struct tdx_module_args *regs)
{
	unsigned long flags;
	u64 status;

	lock_map_acquire_try(&inside);
	spin_lock_irqsave(&module_lock, flags);
	seamcalls++;
	if (injected(leaf, &status))
		regs->rcx = regs->rdx = regs->r8 = 0;
	else
		status = call_leaf(leaf, regs);
	spin_unlock_irqrestore(&module_lock, flags);
	lock_map_release(&inside);
	return status;
}
