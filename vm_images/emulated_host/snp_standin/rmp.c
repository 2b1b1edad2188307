// SPDX-License-Identifier: GPL-2.0
/*
 * The Reverse Map Table in software: who owns each page of memory.
 *
 * Stands in for the table in memory that the processor checks every write against (APM volume 2,
 * 15.36.3) and for the instructions that change it. What it can't do is make that check in time: a
 * write of the host's to a guest's page raises no fault here. It is found out when the page changes
 * hands next, by a sum of its contents, and counted as host_writes.
 */
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/xarray.h>
#include "standin.h"

#define LARGE_PAGES 512		/* 4 KiB pages in a 2 MiB entry */

/*
 * A planted fault, for tests of the tests: so many of the next pages given back to the hypervisor
 * stay what they were, as if the kernel had forgotten them.
 */
static unsigned int leak_pages;
module_param(leak_pages, uint, 0644);
MODULE_PARM_DESC(leak_pages, "keep the next N pages that are made shared in their state");

static DEFINE_XARRAY(table);	/* pfn -> raw entry, as an xarray value */
/* Serializes changes. Looking up takes no lock: KVM does it under mmu_lock, and may not sleep. */
static DEFINE_MUTEX(change);
static DEFINE_XARRAY(sums);	/* pfn of a guest's page -> sum of its contents */
static atomic_t made_private, made_shared, refused, host_writes, not_empty;

enum page_state rmp_state(union rmp_entry e)
{
	if (!e.assigned)
		return HYPERVISOR;
	if (!e.asid) {
		if (!e.immutable)
			return RECLAIM;
		return e.vmsa ? CONTEXT : FIRMWARE;
	}
	if (e.immutable)
		return PRE_GUEST;
	return e.validated ? GUEST_VALID : GUEST_INVALID;
}

union rmp_entry rmp_get(u64 pfn)
{
	void *held = xa_load(&table, pfn);

	return (union rmp_entry){ .raw = held ? xa_to_value(held) : 0 };
}

static int put(u64 pfn, union rmp_entry entry)
{
	if (!entry.assigned) {
		xa_erase(&table, pfn);
		return 0;
	}
	return xa_err(xa_store(&table, pfn, xa_mk_value(entry.raw), GFP_KERNEL));
}

/* Change an entry as the firmware does: immutability does not bind it. */
int rmp_put(u64 pfn, union rmp_entry entry)
{
	int rc;

	mutex_lock(&change);
	rc = put(pfn, entry);
	mutex_unlock(&change);
	return rc;
}

static unsigned long sum_of(u64 pfn)
{
	const u64 *page = __va(PFN_PHYS(pfn));
	u64 sum = 0xcbf29ce484222325ULL;	/* FNV-1a over words */
	int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*page); i++)
		sum = (sum ^ page[i]) * 0x100000001b3ULL;
	return sum >> 1;	/* as an xarray value can have it */
}

/* From here on the page is the guest's, and on hardware a write of the host's would fault. */
void rmp_seal(u64 pfn)
{
	xa_store(&sums, pfn, xa_mk_value(sum_of(pfn)), GFP_KERNEL);
}

static void unseal(u64 pfn)
{
	void *held = xa_erase(&sums, pfn);

	if (held && xa_to_value(held) != sum_of(pfn)) {
		atomic_inc(&host_writes);
		pr_warn(PREFIX "the host wrote to pfn %#llx, a guest's page: an RMP fault on hardware\n",
			pfn);
	}
}

/* RMPUPDATE's result for one 4 KiB page of the range (APM volume 3, RMPUPDATE). */
static const char *why_refused(u64 pfn, bool large)
{
	union rmp_entry now = rmp_get(pfn);

	if (now.immutable)
		return "FAIL_PERMISSION: the entry is immutable";
	if (now.assigned && now.large != large)
		return "FAIL_OVERLAP: an entry of the other page size is there";
	return NULL;
}

static int update(u64 pfn, bool large, union rmp_entry new)
{
	u64 pages = large ? LARGE_PAGES : 1, i;
	const char *why = NULL;
	int rc = 0;

	if (large && pfn % LARGE_PAGES)
		why = "FAIL_INPUT: a 2 MiB entry must be aligned";
	mutex_lock(&change);
	for (i = 0; !why && i < pages; i++)
		why = why_refused(pfn + i, large);
	for (i = 0; !why && !rc && i < pages; i++) {
		unseal(pfn + i);
		rc = put(pfn + i, new);
		if (!rc && rmp_state(new) == GUEST_INVALID) {
			/* Not populated: whatever is there was left by somebody. */
			if (memchr_inv(__va(PFN_PHYS(pfn + i)), 0, PAGE_SIZE))
				atomic_inc(&not_empty);
			rmp_seal(pfn + i);
		}
		new.gfn += new.assigned;
	}
	mutex_unlock(&change);
	if (why) {
		atomic_inc(&refused);
		pr_warn(PREFIX "RMPUPDATE pfn %#llx refused, %s (page state %d)\n", pfn, why,
			rmp_state(rmp_get(pfn)));
		return -EFAULT;		/* as rmpupdate() in the kernel has it */
	}
	return rc;
}

int standin_rmp_make_private(u64 pfn, u64 gpa, enum pg_level level, u32 asid, bool immutable)
{
	bool large = level >= PG_LEVEL_2M;
	union rmp_entry new = {
		.assigned = 1,
		.immutable = immutable,
		.large = large,
		.asid = asid,
		.gfn = gpa >> PAGE_SHIFT,
	};
	int rc;

	atomic_inc(&made_private);
	if (injected(RMP_MAKE_PRIVATE, &rc))
		return rc;
	return update(pfn, large, new);
}

int standin_rmp_make_shared(u64 pfn, enum pg_level level)
{
	int rc;

	atomic_inc(&made_shared);
	if (injected(RMP_MAKE_SHARED, &rc))
		return rc;
	if (leak_pages) {
		leak_pages--;
		return 0;
	}
	return update(pfn, level >= PG_LEVEL_2M, (union rmp_entry){});
}

/* PSMASH: a 2 MiB entry becomes 512 entries of 4 KiB (APM volume 3, PSMASH). */
int standin_psmash(u64 pfn)
{
	u64 first = pfn - pfn % LARGE_PAGES, i;
	int rc = 0;

	if (injected(PSMASH, &rc))
		return rc;
	mutex_lock(&change);
	for (i = 0; !rc && i < LARGE_PAGES; i++) {
		union rmp_entry entry = rmp_get(first + i);

		if (!entry.assigned || !entry.large || entry.immutable)
			rc = 1;		/* FAIL_INPUT; psmash() returns the instruction's code */
		entry.large = 0;
		if (!rc)
			rc = put(first + i, entry);
	}
	mutex_unlock(&change);
	return rc;
}

int standin_lookup_rmpentry(u64 pfn, bool *assigned, int *level)
{
	union rmp_entry entry = rmp_get(pfn);
	int rc;

	if (injected(LOOKUP_RMPENTRY, &rc))
		return rc;
	*assigned = entry.assigned;
	*level = entry.large ? PG_LEVEL_2M : PG_LEVEL_4K;
	return 0;
}

/* Every page is the hypervisor's again. */
void rmp_forget(void)
{
	mutex_lock(&change);
	xa_destroy(&table);
	xa_destroy(&sums);
	mutex_unlock(&change);
}

void rmp_count(unsigned long counts[PAGE_STATES])
{
	unsigned long pfn;
	void *held;

	memset(counts, 0, PAGE_STATES * sizeof(counts[0]));
	xa_for_each(&table, pfn, held)
		counts[rmp_state((union rmp_entry){ .raw = xa_to_value(held) })]++;
}

/* The entries of an ASID: guest address, state (enum page_state), whether of 2 MiB. */
void rmp_report_asid(struct seq_file *out, u32 asid)
{
	unsigned long pfn;
	void *held;

	xa_for_each(&table, pfn, held) {
		union rmp_entry entry = { .raw = xa_to_value(held) };

		if (asid && entry.asid == asid)
			seq_printf(out, "rmp.%#llx=%d %d %d\n", (u64)entry.gfn << PAGE_SHIFT,
				   rmp_state(entry), entry.large, entry.vmsa);
	}
}

unsigned long rmp_pages_of_asid(u32 asid)
{
	unsigned long pfn, count = 0;
	void *held;

	xa_for_each(&table, pfn, held)
		count += ((union rmp_entry){ .raw = xa_to_value(held) }).asid == asid;
	return count;
}

static void report_context(struct seq_file *out, unsigned long pfn, int number)
{
	struct guest_context *guest = __va(PFN_PHYS(pfn));

	seq_printf(out, "context.%d.asid=%u\ncontext.%d.state=%d\ncontext.%d.policy=%#llx\n",
		   number, guest->asid, number, guest->state, number, guest->policy);
	seq_printf(out, "context.%d.pages=%u\ncontext.%d.vmsas=%u\ncontext.%d.digest=%48phN\n",
		   number, guest->pages, number, guest->vmsas, number, guest->digest);
}

void rmp_report(struct seq_file *out)
{
	static const char *const names[PAGE_STATES] = {
		[FIRMWARE] = "firmware", [RECLAIM] = "reclaim", [CONTEXT] = "context",
		[PRE_GUEST] = "pre_guest", [GUEST_INVALID] = "guest_invalid",
		[GUEST_VALID] = "guest_valid",
	};
	unsigned long counts[PAGE_STATES], pfn;
	int state, contexts = 0;
	void *held;

	rmp_count(counts);
	for (state = HYPERVISOR + 1; state < PAGE_STATES; state++)
		seq_printf(out, "rmp_%s=%lu\n", names[state], counts[state]);
	seq_printf(out, "rmpupdate_private=%d\nrmpupdate_shared=%d\nrmpupdate_refused=%d\n",
		   atomic_read(&made_private), atomic_read(&made_shared), atomic_read(&refused));
	seq_printf(out, "host_writes=%d\nnot_empty=%d\n", atomic_read(&host_writes),
		   atomic_read(&not_empty));
	/* The firmware's lock is held: no context changes under us. */
	xa_for_each(&table, pfn, held)
		if (rmp_state((union rmp_entry){ .raw = xa_to_value(held) }) == CONTEXT)
			report_context(out, pfn, contexts++);
}
