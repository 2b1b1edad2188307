/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before arch/x86/kvm/vmx/tdx.c, which is compiled with TDX on for a kernel without it:
 * that kernel has no resource of the misc cgroup for TDX keys. Those of SEV, of which an Intel
 * machine has none, are charged in their place.
 */
#include <linux/misc_cgroup.h>
#define MISC_CG_RES_TDX MISC_CG_RES_SEV
