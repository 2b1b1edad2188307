// SPDX-License-Identifier: GPL-2.0
/* What the software TDX module says of itself: what KVM asks it before any TD is made. */
#include "tdx_module.h"

/*
 * CPUID leaves that a TD's creator configures, and the bits (ABI, "CPUID Virtualization"): a few of
 * those a real module has, among them the ones KVM's users need.
 */
static struct tdx_sys_info info = {
	.version = { .major_version = 1, .minor_version = 5, .update_version = 0 },
	.features.tdx_features0 = TDX_FEATURES0_NO_RBP_MOD | BIT_ULL(20), /* TOPOLOGY_ENUM */
	.td_ctrl = {
		.tdr_base_size = PAGE_SIZE,
		.tdcs_base_size = TDCS_PAGES * PAGE_SIZE,
		.tdvps_base_size = TDVPS_PAGES * PAGE_SIZE,
	},
	.td_conf = {
		.attributes_fixed0 = ATTRIBUTES_ALLOWED,
		.xfam_fixed0 = XFAM_ALLOWED,
		.xfam_fixed1 = XFAM_REQUIRED,
		.max_vcpus_per_td = 576,
		.num_cpuid_config = CPUID_CONFIGS,
		.cpuid_config_leaves = { /* leaf | subleaf << 32, all ones: no subleaf */
			0xffffffff00000001, 0x0000000000000007, 0x0000000100000007,
			0x000000000000001f, 0x000000010000001f, 0xffffffff80000001,
			0xffffffff80000008,
		},
		.cpuid_config_values = { /* EAX | EBX << 32, ECX | EDX << 32 */
			{ 0x00ff000008ff3fff & ~0U, 0x0000000084000000 },
			{ 0xffffffff00000000, 0xffffffffffffffff },
			{ 0x00000000ffffffff, 0 },
			{ 0xffffffffffffffff, 0xffffffffffffffff },
			{ 0xffffffffffffffff, 0xffffffffffffffff },
			{ 0, 0xffffffffffffffff },
			{ 0xff0000ff, 0xff },
		},
	},
};

const struct tdx_sys_info *tdx_module_info(void)
{
	return &info;
}

u32 cpuid_config_allowed(int config, int reg)
{
	if (config >= CPUID_CONFIGS)
		return 0;
	return info.td_conf.cpuid_config_values[config][reg / 2] >> (32 * (reg & 1));
}
