// SPDX-License-Identifier: GPL-2.0
/* TDs: made, given their keys and parameters, and taken apart (Base, "TD Life Cycle"). */
#include <linux/io.h>
#include <linux/slab.h>
#include "tdx_module.h"

DEFINE_XARRAY(tds);
DECLARE_BITMAP(hkids, FIRST_KEYID + KEYIDS);

struct td *td_of(u64 tdr)
{
	return type_of(tdr) == PT_TDR ? xa_load(&tds, tdr >> PAGE_SHIFT) : NULL;
}

/* What nearly every leaf asks first: a TD, its keys, its control structure, its operation state. */
u64 td_in_state(struct td *td, int operand, enum op_state lowest, enum op_state highest)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | operand;
	if (td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (td->tdcx_pages < TDCS_PAGES)
		return TDX_TDCS_NOT_ALLOCATED;
	if (td->op < lowest || td->op > highest)
		return TDX_OP_STATE_INCORRECT;
	return TDX_SUCCESS;
}

u64 mng_create(u64 tdr, u64 hkid)
{
	struct td *td;
	u64 status;

	if (hkid < FIRST_KEYID || hkid >= FIRST_KEYID + KEYIDS)
		return TDX_OPERAND_INVALID | OPERAND_RDX;
	if (type_of(tdr) != PT_NDA)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (test_bit(hkid, hkids))
		return TDX_HKID_NOT_FREE;
	td = kzalloc(sizeof(*td), GFP_ATOMIC);
	if (!td || xa_is_err(xa_store(&tds, tdr >> PAGE_SHIFT, td, GFP_ATOMIC))) {
		kfree(td);
		return TDX_SYS_BUSY;
	}
	status = take_page(tdr, PT_TDR, NULL, OPERAND_RCX);
	if (status) {
		xa_erase(&tds, tdr >> PAGE_SHIFT);
		kfree(td);
		return status;
	}
	td->tdr = tdr;
	td->hkid = hkid;
	td->life = TD_HKID_ASSIGNED;
	xa_init(&td->tables);
	xa_init(&td->leaves);
	set_bit(hkid, hkids);
	return TDX_SUCCESS;
}

u64 mng_key_config(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life == TD_KEYS_CONFIGURED)
		return TDX_KEY_CONFIGURED;
	if (td->life != TD_HKID_ASSIGNED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	td->life = TD_KEYS_CONFIGURED;
	return TDX_SUCCESS;
}

u64 mng_addcx(u64 page, struct td *td)
{
	u64 status;

	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RDX;
	if (td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (td->tdcx_pages >= TDCS_PAGES)
		return TDX_TDCX_NUM_INCORRECT;
	status = take_page(page, PT_TDCX, td, OPERAND_RCX);
	if (!status)
		td->tdcx_pages++;
	return status;
}

/* ABI, "TDH.MNG.INIT"; XFAM rules: Base, "Extended Features Set Enumeration and Execution Control". */
static u64 check_params(const struct td_params *params, u64 *hint)
{
	bool max_gpaw = params->exec_controls & BIT_ULL(0);
	u64 avx512 = params->xfam & GENMASK_ULL(7, 5);
	int config, reg;

	if (params->attributes & ~ATTRIBUTES_ALLOWED)
		return TDX_OPERAND_INVALID | OPERAND_ATTRIBUTES;
	if ((params->xfam & XFAM_REQUIRED) != XFAM_REQUIRED || params->xfam & ~XFAM_ALLOWED ||
	    (avx512 && avx512 != GENMASK_ULL(7, 5)))
		return TDX_OPERAND_INVALID | OPERAND_XFAM;
	if (!params->max_vcpus)
		return TDX_OPERAND_INVALID | OPERAND_MAX_VCPUS;
	if (params->exec_controls & ~(BIT_ULL(0) | BIT_ULL(2))) /* GPAW, NO_RBP_MOD */
		return TDX_OPERAND_INVALID | OPERAND_EXEC_CONTROLS;
	/* Write-back, and a page walk of 5 levels where guest addresses have 52 bits, else of 4. */
	if (params->eptp_controls != (max_gpaw ? 0x26 : 0x1e))
		return TDX_OPERAND_INVALID | OPERAND_EPTP_CONTROLS;
	if (params->tsc_frequency < 4 || params->tsc_frequency > 400) /* 100 MHz to 10 GHz */
		return TDX_OPERAND_INVALID | OPERAND_TSC_FREQUENCY;
	for (config = 0; config < ARRAY_SIZE(params->cpuid); config++)
		for (reg = 0; reg < 4; reg++)
			if (params->cpuid[config][reg] & ~cpuid_config_allowed(config, reg)) {
				*hint = config < CPUID_CONFIGS ?
					tdx_module_info()->td_conf.cpuid_config_leaves[config] : ~0ULL;
				return TDX_OPERAND_INVALID | OPERAND_CPUID_CONFIG;
			}
	return TDX_SUCCESS;
}

u64 mng_init(struct td *td, u64 params, u64 *hint)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_UNINITIALIZED, OP_UNINITIALIZED);

	BUILD_BUG_ON(sizeof(struct td_params) != 1024);
	*hint = 0;
	if (status)
		return status;
	if (!IS_ALIGNED(params, 1024) || type_of(params & PAGE_MASK) != PT_NDA)
		return TDX_OPERAND_INVALID | OPERAND_RDX;
	status = check_params(__va(params), hint);
	if (status)
		return status;
	td->params = *(struct td_params *)__va(params);
	sha384_init(&td->mrtd);
	td->op = OP_INITIALIZED;
	record_init(td);
	remember(td);
	return TDX_SUCCESS;
}

/* ---------------------------------------------------------------- the end of a TD */

u64 mng_vpflushdone(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life != TD_HKID_ASSIGNED && td->life != TD_KEYS_CONFIGURED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (td->associated)
		return TDX_FLUSHVP_NOT_DONE;
	td->life = TD_BLOCKED;
	return TDX_SUCCESS;
}

u64 phymem_cache_wb(void)
{
	unsigned long index;
	bool any = false;
	struct td *td;

	xa_for_each(&tds, index, td) {
		if (td->life == TD_BLOCKED && !td->caches_written_back) {
			td->caches_written_back = true;
			any = true;
		}
	}
	return any ? TDX_SUCCESS : TDX_NO_HKID_READY_TO_WBCACHE;
}

u64 mng_key_freeid(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life != TD_BLOCKED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (!td->caches_written_back)
		return TDX_WBCACHE_NOT_COMPLETE;
	td->life = TD_TEARDOWN;
	clear_bit(td->hkid, hkids);
	return TDX_SUCCESS;
}

/*
 * What failures on purpose left with the module is nobody's again: all TDs end. The kernel uses none
 * of these pages again. Only for when no TD is alive.
 */
void forget_tds(void)
{
	struct sept_leaf *leaf;
	unsigned long index, at;
	struct td *td;

	xa_for_each(&tds, index, td) {
		xa_for_each(&td->leaves, at, leaf)
			kfree(leaf);
		xa_destroy(&td->leaves);
		xa_destroy(&td->tables);
		if (td->life != TD_TEARDOWN)
			clear_bit(td->hkid, hkids);
		kfree(td);
	}
	xa_destroy(&tds);
	forget_vcpus();
	forget_pages();
}

u64 phymem_page_reclaim(struct tdx_module_args *regs)
{
	u64 address = regs->rcx;
	struct page_entry *entry;
	struct sept_leaf *leaf;
	unsigned long index;
	struct td *td;

	regs->rcx = regs->rdx = regs->r8 = 0;
	if (!is_page(address))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	entry = entry_of(address);
	if (!entry || is_leaked(entry))
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	td = entry->type == PT_TDR ? td_of(address) : entry->td;
	regs->rcx = entry->type;
	regs->rdx = entry->type == PT_TDR ? 0 : td->tdr;
	if (td->life != TD_TEARDOWN)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (entry->type == PT_TDR) {
		if (td->children)
			return TDX_TD_ASSOCIATED_PAGES_EXIST;
		xa_for_each(&td->leaves, index, leaf)
			kfree(leaf);
		xa_destroy(&td->leaves);
		xa_destroy(&td->tables);
		xa_erase(&tds, address >> PAGE_SHIFT);
		kfree(td);
	} else if (entry->type == PT_TDVPR) {
		forget_vcpu(address);
	}
	give_page(address);
	return TDX_SUCCESS;
}
