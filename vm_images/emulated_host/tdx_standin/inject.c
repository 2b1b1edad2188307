// SPDX-License-Identifier: GPL-2.0
/*
 * Failures on purpose: a SEAMCALL that KVM makes ends as a test says, once or several times, and
 * does nothing else.
 *
 * The parameter `inject` takes them all at once, as LEAF:STATUS:AFTER:TIMES with commas between,
 * LEAF and STATUS in hexadecimal. A leaf returns STATUS TIMES times, after AFTER calls that pass.
 * LEAF is a SEAMCALL's number, or KEYID_ALLOC, which then fails with ENOSPC whatever STATUS is. An
 * empty text takes back what has not struck.
 */
#include <linux/moduleparam.h>
#include <linux/spinlock.h>
#include "tdx_module.h"

#define SLOTS 4

static struct {
	u32 leaf;
	u64 status;
	unsigned int after, times;
} slots[SLOTS];
static unsigned int struck;

/* Called with module_lock held, as injections_struck() is. */
bool injected(u32 leaf, u64 *status)
{
	int i;

	for (i = 0; i < SLOTS; i++) {
		if (!slots[i].times || slots[i].leaf != leaf)
			continue;
		if (slots[i].after) {
			slots[i].after--;
			continue;
		}
		slots[i].times--;
		struck++;
		*status = slots[i].status;
		return true;
	}
	return false;
}

unsigned int injections_struck(void)
{
	return struck;
}

static int parse(const char *text)
{
	unsigned int after, times;
	int i, read;
	u64 status;
	u32 leaf;

	for (i = 0; i < SLOTS; i++)
		slots[i].times = 0;
	for (i = 0; *text && *text != '\n'; i++) {
		if (i == SLOTS || sscanf(text, "%x:%llx:%u:%u%n", &leaf, &status, &after, &times,
					 &read) != 4)
			return -EINVAL;
		slots[i].leaf = leaf;
		slots[i].status = status;
		slots[i].after = after;
		slots[i].times = times;
		text += read;
		text += *text == ',';
	}
	return 0;
}

static int set_inject(const char *text, const struct kernel_param *param)
{
	unsigned long flags;
	int rc;

	spin_lock_irqsave(&module_lock, flags);
	rc = parse(text);
	spin_unlock_irqrestore(&module_lock, flags);
	return rc;
}

static const struct kernel_param_ops inject_ops = { .set = set_inject };
module_param_cb(inject, &inject_ops, NULL, 0200);
