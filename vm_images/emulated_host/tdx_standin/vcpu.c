// SPDX-License-Identifier: GPL-2.0
/* vCPUs: made, given their pages, initialized, and tied to the processor that touches them. */
#include <linux/slab.h>
#include <linux/smp.h>
#include "tdx_module.h"

static DEFINE_XARRAY(vcpus); /* pfn of the TDVPR -> struct vcpu */

struct vcpu *vcpu_of(u64 tdvpr)
{
	return type_of(tdvpr) == PT_TDVPR ? xa_load(&vcpus, tdvpr >> PAGE_SHIFT) : NULL;
}

void forget_vcpu(u64 tdvpr)
{
	kfree(xa_erase(&vcpus, tdvpr >> PAGE_SHIFT));
}

void forget_vcpus(void)
{
	unsigned long index;
	struct vcpu *vcpu;

	xa_for_each(&vcpus, index, vcpu)
		kfree(vcpu);
	xa_destroy(&vcpus);
}

u64 vp_create(u64 tdvpr, struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);
	struct vcpu *vcpu;

	if (status)
		return status;
	vcpu = kzalloc(sizeof(*vcpu), GFP_ATOMIC);
	if (!vcpu || xa_is_err(xa_store(&vcpus, tdvpr >> PAGE_SHIFT, vcpu, GFP_ATOMIC))) {
		kfree(vcpu);
		return TDX_SYS_BUSY;
	}
	status = take_page(tdvpr, PT_TDVPR, td, OPERAND_RCX);
	if (status) {
		xa_erase(&vcpus, tdvpr >> PAGE_SHIFT);
		kfree(vcpu);
		return status;
	}
	vcpu->td = td;
	vcpu->processor = -1;
	return TDX_SUCCESS;
}

u64 vp_addcx(u64 page, struct vcpu *vcpu)
{
	u64 status;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RDX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_INITIALIZED);
	if (status)
		return status;
	if (vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	if (vcpu->tdcx_pages >= TDVPS_PAGES - 1)
		return TDX_TDCX_NUM_INCORRECT;
	status = take_page(page, PT_TDCX, vcpu->td, OPERAND_RCX);
	if (!status)
		vcpu->tdcx_pages++;
	return status;
}

/* Base, "VCPU-to-LP Association": a vCPU belongs to the processor that touched it until flushed. */
static u64 associate(struct vcpu *vcpu)
{
	if (vcpu->processor < 0) {
		vcpu->processor = raw_smp_processor_id();
		vcpu->td->associated++;
	}
	if (vcpu->processor != raw_smp_processor_id())
		return TDX_VCPU_ASSOCIATED;
	return TDX_SUCCESS;
}

u64 vp_init(struct vcpu *vcpu, u64 rcx, u32 x2apicid)
{
	u64 status;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_INITIALIZED);
	if (status)
		return status;
	if (vcpu->tdcx_pages != TDVPS_PAGES - 1)
		return TDX_TDCX_NUM_INCORRECT;
	if (vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	if (vcpu->td->vcpus >= vcpu->td->params.max_vcpus)
		return TDX_MAX_VCPUS_EXCEEDED;
	vcpu->number = vcpu->td->vcpus++;
	vcpu->initialized = true;
	record_vcpu(vcpu->td, rcx, x2apicid);
	return associate(vcpu);
}

/* Fields keep what is written; one never written reads as 0. Which fields exist is not modelled. */
u64 vp_rd_wr(struct vcpu *vcpu, struct tdx_module_args *regs, bool write)
{
	struct vcpu_field *field = NULL;
	u64 before, status;
	unsigned int i;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_RUNNABLE);
	if (status)
		return status;
	if (!vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	status = associate(vcpu);
	if (status)
		return status;
	for (i = 0; i < vcpu->fields; i++)
		if (vcpu->field[i].id == regs->rdx)
			field = &vcpu->field[i];
	before = field ? field->value : 0;
	if (write && !field) {
		if (vcpu->fields == ARRAY_SIZE(vcpu->field))
			return TDX_SYS_BUSY;
		field = &vcpu->field[vcpu->fields++];
		field->id = regs->rdx;
	}
	if (write) {
		field->value = (before & ~regs->r9) | (regs->r8 & regs->r9);
		record_fields(vcpu);
	}
	regs->r8 = before;
	return TDX_SUCCESS;
}

u64 vp_flush(struct vcpu *vcpu)
{
	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (vcpu->td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (vcpu->processor < 0)
		return TDX_VCPU_NOT_ASSOCIATED;
	if (vcpu->processor != raw_smp_processor_id())
		return TDX_VCPU_ASSOCIATED;
	vcpu->processor = -1;
	vcpu->td->associated--;
	return TDX_SUCCESS;
}
