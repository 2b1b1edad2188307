// SPDX-License-Identifier: GPL-2.0
/* Finding symbols that are not exported, replacing functions by ftrace, writing to read-only data. */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include "tdx_standin.h"

static unsigned long (*lookup)(const char *name);

/* kallsyms_lookup_name() is not exported; a probe on it tells where it is. */
int find_symbols(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int rc = register_kprobe(&probe);

	if (rc)
		return rc;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

unsigned long symbol_address(const char *name)
{
	return lookup(name);
}

static void notrace enter(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			  struct ftrace_regs *regs)
{
	struct redirect *redirect = container_of(ops, struct redirect, ops);

	if (!redirect->wanted || redirect->wanted(regs))
		ftrace_regs_set_instruction_pointer(regs, (unsigned long)redirect->to);
}

/* Calls of the function go to redirect->to, which must have the same type. Not undone. */
int redirect(struct redirect *redirect)
{
	unsigned long address = symbol_address(redirect->name);
	int rc;

	if (!address) {
		pr_err("tdx_standin: this kernel has no function %s\n", redirect->name);
		return -ENOENT;
	}
	redirect->ops.func = enter;
	redirect->ops.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_RECURSION;
	rc = ftrace_set_filter_ip(&redirect->ops, address, 0, 0);
	if (!rc)
		rc = register_ftrace_function(&redirect->ops);
	if (rc)
		pr_err("tdx_standin: %s can't be redirected (%d)\n", redirect->name, rc);
	return rc;
}

static void notrace enter_one_of(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
				 struct ftrace_regs *regs)
{
	struct replacement *each;

	/* The traced call is at a function's entry, or after its landing pad (ENDBR, 4 bytes). */
	for (each = ops->private; each->name; each++)
		if (ip - each->address <= 4)
			ftrace_regs_set_instruction_pointer(regs, (unsigned long)each->to);
}

static struct ftrace_ops list_ops = {
	.func = enter_one_of,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_RECURSION,
};

/*
 * For one list only, and not undone. One registration for all of it: each rewrites the kernel's text,
 * which is slow under emulation.
 */
int redirect_all(struct replacement *list)
{
	struct replacement *each;
	int rc = 0;

	for (each = list; each->name && !rc; each++) {
		each->address = symbol_address(each->name);
		if (!each->address) {
			pr_err("tdx_standin: this kernel has no function %s\n", each->name);
			return -ENOENT;
		}
		rc = ftrace_set_filter_ip(&list_ops, each->address, 0, 0);
		if (rc)
			pr_err("tdx_standin: %s can't be redirected (%d)\n", each->name, rc);
	}
	list_ops.private = list;
	return rc ?: register_ftrace_function(&list_ops);
}

/* Kernel data may be mapped read-only after boot: write through a mapping of our own. */
int overwrite_data(void *address, const void *value, size_t size)
{
	struct page *page = pfn_to_page(__pa_symbol(address) >> PAGE_SHIFT);
	void *window;

	if (offset_in_page(address) + size > PAGE_SIZE)
		return -EINVAL;
	window = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!window)
		return -ENOMEM;
	memcpy(window + offset_in_page(address), value, size);
	vunmap(window);
	return 0;
}
