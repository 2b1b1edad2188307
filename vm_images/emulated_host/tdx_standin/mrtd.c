// SPDX-License-Identifier: GPL-2.0
/* MRTD: the measurement of what a TD is built of. */
#include <linux/io.h>
#include "tdx_module.h"

struct measured last_measured;

void remember(struct td *td)
{
	last_measured.mrtd = td->mrtd;
	last_measured.added = td->added;
	last_measured.extended = td->extended;
	last_measured.augmented = td->augmented;
	last_measured.finalized = td->op == OP_RUNNABLE;
	last_measured.any = true;
}

/*
 * Base, "TD Measurement (MRTD)": each page adds 128 bytes, "MEM.PAGE.ADD" and the address at 16;
 * each measured chunk of 256 bytes adds 128 more, "MR.EXTEND" and its address, and the chunk.
 */
static void measure(struct td *td, const char *what, u64 gpa)
{
	u8 record[128] = {};

	memcpy(record, what, strlen(what));
	*(__le64 *)(record + 16) = cpu_to_le64(gpa);
	sha384_update(&td->mrtd, record, sizeof(record));
}

void measure_added_page(struct td *td, u64 gpa)
{
	measure(td, "MEM.PAGE.ADD", gpa);
	td->added++;
	remember(td);
}

u64 mr_extend(struct td *td, u64 gpa, struct tdx_module_args *regs)
{
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);
	u64 chunk[256 / sizeof(u64)], address;
	struct sept_leaf *leaf;

	if (status)
		return status;
	if (!IS_ALIGNED(gpa, sizeof(chunk)) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	if (!leaf)
		return sept_error(regs, TDX_EPT_ENTRY_NOT_PRESENT | OPERAND_RCX, 0, SEPT_FREE);
	if (leaf->state != SEPT_MAPPED)
		return TDX_EPT_ENTRY_NOT_PRESENT;
	address = leaf->page + offset_in_page(gpa);
	crypt(td, chunk, address, __va(address), sizeof(chunk));
	measure(td, "MR.EXTEND", gpa);
	sha384_update(&td->mrtd, (u8 *)chunk, sizeof(chunk));
	td->extended++;
	record_extend(td, gpa);
	remember(td);
	return TDX_SUCCESS;
}

u64 mr_finalize(struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_INITIALIZED, OP_INITIALIZED);

	if (status)
		return status;
	if (!td->vcpus)
		return TDX_NO_VCPUS;
	td->op = OP_RUNNABLE;
	remember(td);
	return TDX_SUCCESS;
}
