// SPDX-License-Identifier: GPL-2.0
/* The secure EPT: its tables, and its leaf entries from free to mapped and back. */
#include <linux/io.h>
#include <linux/slab.h>
#include "tdx_module.h"

/* ABI, "EPT Level and GPA": RCX has the address in bits 51:12 and the level in 2:0. */
static int level_of(u64 gpa_and_level)
{
	return gpa_and_level & 7;
}

static u64 level_span(int level)
{
	return PAGE_SIZE << (9 * level);
}

/* An entry of level 1 and above, by what it maps. */
static unsigned long table_key(u64 gpa, int level)
{
	return (gpa & ~(level_span(level) - 1)) >> PAGE_SHIFT | (unsigned long)level << 56;
}

static bool five_levels(struct td *td)
{
	return td->params.exec_controls & BIT_ULL(0);
}

/* Base, "Guest Physical Address Translation": the bit below the width says shared. */
bool is_private(struct td *td, u64 gpa)
{
	return !(gpa >> (five_levels(td) ? 51 : 47));
}

/* Whether the walk for `gpa` reaches the entry of `level`: its table is there. The root always is. */
static bool walk_reaches(struct td *td, u64 gpa, int level)
{
	int root = five_levels(td) ? 4 : 3;

	return level == root || xa_load(&td->tables, table_key(gpa, level + 1));
}

/* ABI, "Secure EPT Entry Information": RDX has level and state. The entry itself, RCX, stays 0. */
u64 sept_error(struct tdx_module_args *regs, u64 status, int level, enum sept_state state)
{
	regs->rcx = 0;
	regs->rdx = level | state << 8;
	return status;
}

u64 mem_sept_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8;
	int level = level_of(gpa_and_level);
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);

	if (status)
		return status;
	if (level < 1 || level > (five_levels(td) ? 4 : 3) || !IS_ALIGNED(gpa, level_span(level)) ||
	    !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, level))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, level + 1, SEPT_FREE);
	if (xa_load(&td->tables, table_key(gpa, level)))
		return sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, level,
				  SEPT_MAPPED);
	status = take_page(page, PT_EPT, td, OPERAND_R8);
	if (status)
		return status;
	if (xa_is_err(xa_store(&td->tables, table_key(gpa, level),
			       xa_mk_value(page >> PAGE_SHIFT), GFP_ATOMIC))) {
		give_page(page);
		return TDX_SYS_BUSY;
	}
	return TDX_SUCCESS;
}

/* ---------------------------------------------------------------- leaf entries */

/*
 * Find the leaf entry of an address. Its table has to be there; *leaf is NULL where the entry is
 * free.
 */
static u64 walk_to_leaf(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs,
			struct sept_leaf **leaf)
{
	u64 gpa = gpa_and_level & PAGE_MASK;

	if (level_of(gpa_and_level) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, 0))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, 1, SEPT_FREE);
	*leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	return TDX_SUCCESS;
}

static u64 walk_to_free(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	struct sept_leaf *leaf;
	u64 status = walk_to_leaf(td, gpa_and_level, regs, &leaf);

	if (!status && leaf)
		status = sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, 0,
				    leaf->state);
	return status;
}

static u64 walk_to_present(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs,
			   struct sept_leaf **leaf)
{
	u64 status = walk_to_leaf(td, gpa_and_level, regs, leaf);

	if (!status && !*leaf)
		status = sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, 0,
				    SEPT_FREE);
	return status;
}

/* The part that adding a page has in common before and after the TD runs. */
static u64 map_leaf(struct td *td, u64 gpa, u64 page, enum sept_state state)
{
	struct sept_leaf *leaf;
	u64 status = take_page(page, PT_REG, td, OPERAND_R8);

	if (status)
		return status;
	leaf = kzalloc(sizeof(*leaf), GFP_ATOMIC);
	if (!leaf || xa_is_err(xa_store(&td->leaves, gpa >> PAGE_SHIFT, leaf, GFP_ATOMIC))) {
		kfree(leaf);
		give_page(page);
		return TDX_SYS_BUSY;
	}
	leaf->state = state;
	leaf->page = page;
	return TDX_SUCCESS;
}

u64 mem_page_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8, source = regs->r9;
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);

	if (!status)
		status = walk_to_free(td, gpa_and_level, regs);
	if (!status && (!is_page(source) || type_of(source) != PT_NDA))
		status = TDX_OPERAND_INVALID | OPERAND_R9;
	if (!status)
		status = map_leaf(td, gpa, page, SEPT_MAPPED);
	if (status)
		return status;
	record_page(td, gpa, __va(source));
	crypt(td, __va(page), page, __va(source), PAGE_SIZE);
	measure_added_page(td, gpa);
	return TDX_SUCCESS;
}

u64 mem_page_aug(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8;
	u64 status = td_in_state(td, OPERAND_RDX, OP_RUNNABLE, OP_RUNNABLE);

	if (!status)
		status = walk_to_free(td, gpa_and_level, regs);
	if (!status)
		status = map_leaf(td, gpa, page, SEPT_PENDING);
	if (status)
		return status;
	td->augmented++;
	remember(td);
	return TDX_SUCCESS;
}

/* Base, "GPA Range Block", "TLB Tracking": a page is blocked, tracked, then removed. */
u64 mem_range_block(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);
	struct sept_leaf *leaf;

	if (!status)
		status = walk_to_present(td, gpa_and_level, regs, &leaf);
	if (status)
		return status;
	if (leaf->state == SEPT_BLOCKED || leaf->state == SEPT_PENDING_BLOCKED)
		return sept_error(regs, TDX_GPA_RANGE_ALREADY_BLOCKED | OPERAND_RCX, 0,
				  leaf->state);
	leaf->state = leaf->state == SEPT_PENDING ? SEPT_PENDING_BLOCKED : SEPT_BLOCKED;
	entry_of(leaf->page)->blocked_epoch = td->epoch;
	return TDX_SUCCESS;
}

u64 mem_track(struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_RUNNABLE, OP_RUNNABLE);

	if (!status)
		td->epoch++;
	return status;
}

u64 mem_page_remove(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page;
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);
	struct sept_leaf *leaf;

	if (!status)
		status = walk_to_present(td, gpa_and_level, regs, &leaf);
	if (status)
		return status;
	if (td->op == OP_RUNNABLE) {
		if (leaf->state == SEPT_MAPPED || leaf->state == SEPT_PENDING)
			return sept_error(regs, TDX_GPA_RANGE_NOT_BLOCKED | OPERAND_RCX, 0,
					  leaf->state);
		if (entry_of(leaf->page)->blocked_epoch == td->epoch)
			return TDX_TLB_TRACKING_NOT_DONE | OPERAND_RCX;
	}
	page = leaf->page;
	xa_erase(&td->leaves, gpa >> PAGE_SHIFT);
	kfree(leaf);
	remove_page(page);
	regs->rcx = page;
	return TDX_SUCCESS;
}
