// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/kvmharness_snp: key=value, a line each.
 *
 *   rmp_STATE        4 KiB pages in each state but the hypervisor's; all 0 when no VM is left
 *   rmpupdate_*      how often entries were changed, and how often that was refused
 *   host_writes      pages found changed that were a guest's: each an RMP fault on hardware
 *   not_empty    pages given to a guest otherwise than by LAUNCH_UPDATE that were not all zeros
 *   context.N.*      each living guest: state 0 INIT, 1 LAUNCH, 2 RUNNING
 *   asids            how many are bound to guests
 *   injected         how many calls failed on purpose
 *   command.0xNN     how often each firmware command was given
 *   the others       the guest changed last, also after its end: its launch digest and the like
 */
#include <linux/proc_fs.h>
#include "standin.h"

static int show(struct seq_file *out, void *unused)
{
	firmware_report(out);
	return 0;
}

static int show_launch(struct seq_file *out, void *unused)
{
	firmware_report_launch(out);
	return 0;
}

int report_init(void)
{
	if (!proc_create_single("kvmharness_snp", 0444, NULL, show) ||
	    !proc_create_single("kvmharness_snp_launch", 0444, NULL, show_launch))
		return -ENOMEM;
	return 0;
}
