// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/kvmharness_splat: whoever writes a name to it makes the kernel find that bug in itself, in
 * the writer's context. For a test of the harness, on an emulated host.
 */
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

static volatile int forty = 40, sink;

static noinline void splat_warn(void)
{
	WARN_ON(forty == 40);
}

static void error(void)
{
	pr_err("splats: a message of level 3\n");
}

static void bug(void)
{
	BUG();
}

static void null(void)
{
	*(volatile int *)8 = 1;
}

static void gpf(void)
{
	sink = *(volatile int *)0xdead000000000100UL;
}

static void list(void)
{
	struct list_head one, two;

	INIT_LIST_HEAD(&one);
	list_add(&two, &one);
	one.next = &one;
	list_del(&two);
}

static void refcount(void)
{
	refcount_t count = REFCOUNT_INIT(1);

	refcount_dec_and_test(&count);
	sink = refcount_dec_and_test(&count);
}

static void ubsan(void)
{
	sink = 1 << forty;
}

static void atomic(void)
{
	DEFINE_SPINLOCK(lock);

	spin_lock(&lock);
	msleep(1);
	spin_unlock(&lock);
}

static void hang(void)
{
	msleep(600 * 1000);	/* as one that waits for a lock that nobody lets go */
}

static const struct {
	const char *name;
	void (*find)(void);
} splats[] = {
	{ "warn", splat_warn }, { "error", error }, { "bug", bug }, { "null", null },
	{ "gpf", gpf }, { "list", list }, { "refcount", refcount }, { "ubsan", ubsan },
	{ "atomic", atomic }, { "hang", hang },
};

static ssize_t splat_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char name[16] = "";
	int i;

	if (size >= sizeof(name) || copy_from_user(name, from, size))
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(splats); i++) {
		if (!strcmp(name, splats[i].name)) {
			splats[i].find();
			return size;
		}
	}
	return -EINVAL;
}

static const struct proc_ops operations = { .proc_write = splat_write };

static int __init splats_init(void)
{
	return proc_create("kvmharness_splat", 0200, NULL, &operations) ? 0 : -ENOMEM;
}
module_init(splats_init);

MODULE_DESCRIPTION("Bugs for the kernel to find in itself");
MODULE_LICENSE("GPL");
