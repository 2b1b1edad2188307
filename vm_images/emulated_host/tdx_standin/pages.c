// SPDX-License-Identifier: GPL-2.0
/* Physical pages: which of them the module owns, for what and for which TD (Base, "PAMT"). */
#include <linux/io.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <asm/page.h>
#include "tdx_module.h"

static DEFINE_XARRAY(pages); /* pfn -> struct page_entry */
unsigned int owned[PT_EPT + 1];

/*
 * Planted mistake, for tests of the leak check: this many removed pages stay owned by the module.
 * Writing 0 gives up those that did.
 */
static unsigned int leak;
static int set_leak(const char *value, const struct kernel_param *param);
static const struct kernel_param_ops leak_ops = { .set = set_leak, .get = param_get_uint };
module_param_cb(leak, &leak_ops, &leak, 0644);

struct page_entry *entry_of(u64 address)
{
	return xa_load(&pages, address >> PAGE_SHIFT);
}

enum page_type type_of(u64 address)
{
	struct page_entry *entry = entry_of(address);

	return entry ? entry->type : PT_NDA;
}

bool is_page(u64 address)
{
	return PAGE_ALIGNED(address) && pfn_valid(address >> PAGE_SHIFT);
}

/*
 * What the kernel still has to do with a page that the module has given back, before it may use it:
 * pfn -> what. A page of a TD's memory has lines in the caches under the TD's key.
 */
static DEFINE_XARRAY(owing);
unsigned int unflushed, unreset;

static void owe(u64 page, unsigned long what)
{
	void *held = xa_load(&owing, page >> PAGE_SHIFT);
	unsigned long before = held ? xa_to_value(held) & (OWES_FLUSH | OWES_RESET) : 0;

	unflushed += !!(what & OWES_FLUSH) - !!(before & OWES_FLUSH);
	unreset += !!(what & OWES_RESET) - !!(before & OWES_RESET);
	if (what & (OWES_FLUSH | OWES_RESET))
		xa_store(&owing, page >> PAGE_SHIFT, xa_mk_value(what), GFP_ATOMIC);
	else
		xa_erase(&owing, page >> PAGE_SHIFT);
}

/* What was done: a write-back, or tdx_quirk_reset_paddr(). */
void paid(u64 page, unsigned long what)
{
	void *held = xa_load(&owing, page >> PAGE_SHIFT);

	if (held)
		owe(page, xa_to_value(held) & ~what);
}

/* The page must be nobody's (PT_NDA); it becomes `type` and `td`'s. */
u64 take_page(u64 address, enum page_type type, struct td *td, int operand)
{
	struct page_entry *entry;

	if (!is_page(address))
		return TDX_OPERAND_INVALID | operand;
	if (type_of(address) != PT_NDA)
		return TDX_PAGE_METADATA_INCORRECT | operand;
	entry = kzalloc(sizeof(*entry), GFP_ATOMIC);
	if (!entry || xa_is_err(xa_store(&pages, address >> PAGE_SHIFT, entry, GFP_ATOMIC))) {
		kfree(entry);
		return TDX_SYS_BUSY; /* out of memory here, never there */
	}
	entry->type = type;
	entry->td = td;
	owned[type]++;
	owe(address, 0);
	if (td)
		td->children++;
	return TDX_SUCCESS;
}

void give_page(u64 address)
{
	struct page_entry *entry = xa_erase(&pages, address >> PAGE_SHIFT);
	unsigned long owes = OWES_RESET;

	if (entry->type == PT_REG && entry->td && entry->td->life == TD_KEYS_CONFIGURED)
		owes |= OWES_FLUSH | (unsigned long)entry->td->hkid << OWES_HKID_SHIFT;
	owe(address, owes);
	owned[entry->type]--;
	if (entry->td)
		entry->td->children--;
	kfree(entry);
}

/* The planted mistake: the page stays the module's, though no TD knows of it. */
static void leak_page(u64 address)
{
	struct page_entry *entry = entry_of(address);

	entry->td->children--;
	entry->td = NULL;
	leak--;
}

/* Take a page out of a TD. */
void remove_page(u64 address)
{
	if (leak)
		leak_page(address);
	else
		give_page(address);
}

bool is_leaked(const struct page_entry *entry)
{
	return entry && entry->type != PT_TDR && !entry->td;
}

static void forget_leaked(void)
{
	struct page_entry *entry;
	unsigned long index;

	xa_for_each(&pages, index, entry)
		if (is_leaked(entry)) {
			give_page((u64)index << PAGE_SHIFT);
			/* KVM did its part when it was told that the page was removed. */
			owe((u64)index << PAGE_SHIFT, 0);
		}
}

void forget_pages(void)
{
	struct page_entry *entry;
	unsigned long index;

	xa_for_each(&pages, index, entry)
		kfree(entry);
	xa_destroy(&pages);
	xa_destroy(&owing);
	memset(owned, 0, sizeof(owned));
	unflushed = unreset = 0;
}

static int set_leak(const char *value, const struct kernel_param *param)
{
	unsigned long flags;
	int rc;

	spin_lock_irqsave(&module_lock, flags);
	rc = param_set_uint(value, param);
	if (!rc && !leak)
		forget_leaked();
	spin_unlock_irqrestore(&module_lock, flags);
	return rc;
}

/*
 * Only pages that the module has given back may be written back for it. The key, which on hardware
 * is in the upper bits of RCX, comes in RDX; that of the module itself, for a TDR, is 0.
 */
u64 phymem_page_wbinvd(u64 page, u64 hkid)
{
	void *held = xa_load(&owing, page >> PAGE_SHIFT);

	if (!is_page(page))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (type_of(page) != PT_NDA && !is_leaked(entry_of(page)))
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (held && hkid == xa_to_value(held) >> OWES_HKID_SHIFT)
		paid(page, OWES_FLUSH);
	return TDX_SUCCESS;
}
