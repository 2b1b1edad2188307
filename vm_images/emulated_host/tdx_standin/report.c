// SPDX-License-Identifier: GPL-2.0
/* /proc/kvmharness_tdx: the software TDX module's state, for tests that ask afterwards. */
#include <linux/spinlock.h>
#include "tdx_module.h"

void tdx_module_show(struct seq_file *seq)
{
	unsigned int leaves[SEPT_MAPPED + 1] = {}, count = 0, by_type[ARRAY_SIZE(owned)];
	struct measured shown;
	u8 digest[SHA384_DIGEST_SIZE] = {};
	unsigned long flags, index, at;
	struct sept_leaf *leaf;
	u64 all_calls;
	unsigned int injections, flush, reset;
	struct td *td;

	spin_lock_irqsave(&module_lock, flags);
	shown = last_measured;
	all_calls = seamcalls;
	injections = injections_struck();
	flush = unflushed;
	reset = unreset;
	memcpy(by_type, owned, sizeof(owned));
	xa_for_each(&tds, index, td) {
		count++;
		xa_for_each(&td->leaves, at, leaf)
			leaves[leaf->state]++;
	}
	spin_unlock_irqrestore(&module_lock, flags);
	if (shown.any)
		sha384_final(&shown.mrtd, digest);
	/* The TD used last: MRTD as it would be if finalized now. */
	seq_printf(seq, "digest=%*phN\nfinalized=%d\nadded=%llu\nextended=%llu\naugmented=%llu\n",
		   SHA384_DIGEST_SIZE, digest, shown.finalized, shown.added, shown.extended,
		   shown.augmented);
	/* All TDs: the module's pages by type, leaf entries by state. */
	seq_printf(seq, "pages_tdr=%u\npages_tdcx=%u\npages_tdvpr=%u\npages_sept=%u\npages_reg=%u\n",
		   by_type[PT_TDR], by_type[PT_TDCX], by_type[PT_TDVPR], by_type[PT_EPT],
		   by_type[PT_REG]);
	seq_printf(seq, "pages_unflushed=%u\npages_unreset=%u\n", flush, reset);
	seq_printf(seq, "sept_mapped=%u\nsept_pending=%u\nsept_blocked=%u\n", leaves[SEPT_MAPPED],
		   leaves[SEPT_PENDING], leaves[SEPT_BLOCKED] + leaves[SEPT_PENDING_BLOCKED]);
	seq_printf(seq, "tds=%u\nkeyids=%u\nkeyids_all=%u\nseamcalls=%llu\ninjected=%u\n", count,
		   bitmap_weight(hkids, FIRST_KEYID + KEYIDS), KEYIDS, all_calls, injections);
}
