// SPDX-License-Identifier: GPL-2.0
/*
 * Failures on purpose: a call that KVM makes ends as a test says, once or several times, and does
 * nothing else.
 *
 * The parameter `inject` takes them all at once, as CALL:RESULT:AFTER:TIMES with commas between.
 * CALL is a firmware command's number, or one of enum injected_call, in hexadecimal. A RESULT above
 * 0 is the status that the firmware gives; below 0 it is an errno: what the function returns, and
 * for a command the ccp driver's own (EBUSY: it takes the secure processor for dead), with which
 * the firmware was not asked. It strikes TIMES times after AFTER calls that pass. An empty text
 * takes back what has not struck.
 */
#include <linux/moduleparam.h>
#include <linux/string.h>
#include "standin.h"

#define SLOTS 4

/* No lock: RMP entries are looked up under mmu_lock, where nothing may sleep. */
static struct {
	u32 call;
	int result;
	atomic_t after, times;
} slots[SLOTS];
static atomic_t struck;

bool injected(u32 call, int *result)
{
	int i;

	for (i = 0; i < SLOTS; i++) {
		if (!atomic_read(&slots[i].times) || slots[i].call != call)
			continue;
		if (atomic_dec_if_positive(&slots[i].after) >= 0)
			continue;
		if (atomic_dec_if_positive(&slots[i].times) < 0)
			continue;
		atomic_inc(&struck);
		*result = slots[i].result;
		return true;
	}
	return false;
}

int injections_struck(void)
{
	return atomic_read(&struck);
}

static int set_inject(const char *text, const struct kernel_param *param)
{
	unsigned int after, times;
	int i, read, result;
	u32 call;

	for (i = 0; i < SLOTS; i++)
		atomic_set(&slots[i].times, 0);
	for (i = 0; *text && *text != '\n'; i++) {
		if (i == SLOTS || sscanf(text, "%x:%d:%u:%u%n", &call, &result, &after, &times,
					 &read) != 4)
			return -EINVAL;
		slots[i].call = call;
		slots[i].result = result;
		atomic_set(&slots[i].after, after);
		atomic_set(&slots[i].times, times);
		text += read;
		text += *text == ',';
	}
	return 0;
}

static const struct kernel_param_ops inject_ops = { .set = set_inject };
module_param_cb(inject, &inject_ops, NULL, 0200);
MODULE_PARM_DESC(inject, "CALL:RESULT:AFTER:TIMES,...: calls that end with RESULT and do nothing");
