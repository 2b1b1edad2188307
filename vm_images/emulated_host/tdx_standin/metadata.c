// SPDX-License-Identifier: GPL-2.0
/* The fields of a TD that its creator can read. */
#include <asm/cpuid/api.h>
#include "tdx_module.h"

/* ABI, "TD Metadata": field IDs of the execution controls, and of the virtual CPUID's values. */
#define FIELD_TSC_OFFSET 0x110000000000000aULL
#define FIELD_TSC_MULTIPLIER 0x110000000000000bULL
#define FIELD_CPUID_VALUES 0x94100003U /* bits 63:32 */

/* Bit 16 leaf 31, 15:9 leaf 6:0, 8 no subleaf, 7:1 subleaf, 0 which half of the four registers. */
static u64 read_cpuid_values(struct td *td, u64 field, u64 *value)
{
	u32 leaf = (field >> 9 & 0x7f) | (field >> 16 & 1) << 31;
	u32 subleaf = field >> 1 & 0x7f;
	bool no_subleaf = field & BIT_ULL(8);
	bool has_subleaves = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f;
	u32 reg[4] = { leaf, 0, no_subleaf ? 0 : subleaf, 0 };
	int i, j;

	if (no_subleaf == has_subleaves || (has_subleaves && subleaf > 3))
		return TDX_METADATA_FIELD_NOT_READABLE;
	native_cpuid(&reg[0], &reg[1], &reg[2], &reg[3]);
	if (leaf == 0)
		reg[0] = 0x1f;
	else if (leaf == 0x80000000)
		reg[0] = 0x80000008;
	for (i = 0; i < CPUID_CONFIGS; i++) {
		u64 config = tdx_module_info()->td_conf.cpuid_config_leaves[i];

		if ((u32)config != leaf || (!no_subleaf && config >> 32 != subleaf))
			continue;
		for (j = 0; j < 4; j++)
			reg[j] = (reg[j] & ~cpuid_config_allowed(i, j)) | td->params.cpuid[i][j];
	}
	if (leaf == 1)
		reg[2] |= BIT(21); /* a TD always has x2APIC */
	i = field & 1 ? 2 : 0;
	*value = reg[i] | (u64)reg[i + 1] << 32;
	return TDX_SUCCESS;
}

u64 mng_rd(struct td *td, u64 field, u64 *value)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_INITIALIZED, OP_RUNNABLE);

	*value = 0;
	if (status)
		return status;
	if (field == FIELD_TSC_OFFSET)
		return TDX_SUCCESS;
	if (field == FIELD_TSC_MULTIPLIER) {
		*value = 1ULL << 48; /* a ratio of 1: 48 bits of fraction */
		return TDX_SUCCESS;
	}
	if (field >> 32 == FIELD_CPUID_VALUES)
		return read_cpuid_values(td, field, value);
	return TDX_METADATA_FIELD_NOT_READABLE;
}
