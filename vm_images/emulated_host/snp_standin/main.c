// SPDX-License-Identifier: GPL-2.0
/*
 * Puts the stand-ins in the place of the kernel's functions that reach the silicon.
 *
 * ftrace lets a module redirect a function at its entry (as livepatch does); callers, kvm-amd.ko
 * among them, stay as they are.
 */
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include "standin.h"

/* kallsyms_lookup_name() is not exported; a kprobe on it tells where it is. */
static unsigned long (*lookup)(const char *name);

static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int rc = register_kprobe(&probe);

	if (rc)
		return rc;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

/* The firmware is up from the start: sev_platform_init() has nothing to do. */
static int platform_init(struct sev_platform_init_args *arguments)
{
	int result = 0;

	if (!injected(PLATFORM_INIT, &result) || result < 0)
		return result;
	arguments->error = result;
	return -EIO;
}

static void platform_shutdown(void)
{
}

static int supported_vm_types(void)
{
	return BIT(2) | BIT(3) | BIT(4);	/* KVM_X86_SEV_VM, SEV_ES_VM, SNP_VM */
}

static u64 policy_bits(void)
{
	return GENMASK_ULL(20, 0);
}

static struct {
	const char *name;
	void *standin;
	bool optional;		/* newer kernels only */
	unsigned long address;
} replaced[] = {
	/* arch/x86/virt/svm/sev.c */
	{ "rmp_make_private", standin_rmp_make_private },
	{ "rmp_make_shared", standin_rmp_make_shared },
	{ "psmash", standin_psmash },
	{ "snp_lookup_rmpentry", standin_lookup_rmpentry },
	/* drivers/crypto/ccp/sev-dev.c */
	{ "sev_do_cmd", firmware_command },
	{ "__sev_do_cmd_locked", firmware_command },
	{ "sev_platform_init", platform_init },
	{ "sev_platform_shutdown", platform_shutdown },
	{ "snp_alloc_firmware_page", firmware_alloc_page },
	{ "snp_free_firmware_page", firmware_free_page },
	{ "sev_firmware_supported_vm_types", supported_vm_types, true },
	{ "sev_get_snp_policy_bits", policy_bits, true },
};

/*
 * The call that ftrace traces is at a function's entry, or after the landing pad (ENDBR, 4 bytes)
 * where it has one.
 */
static void notrace redirect(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			     struct ftrace_regs *registers)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(replaced); i++)
		if (ip - replaced[i].address <= 4)
			ftrace_regs_set_instruction_pointer(registers,
							    (unsigned long)replaced[i].standin);
}

static struct ftrace_ops redirection = {
	.func = redirect,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_RECURSION,
};

/* One registration for all: each rewrites the kernel's text, which is slow under emulation. */
static int replace_functions(void)
{
	unsigned long entries[ARRAY_SIZE(replaced)];
	int i, rc, count = 0;

	for (i = 0; i < ARRAY_SIZE(replaced); i++) {
		replaced[i].address = lookup(replaced[i].name);
		if (replaced[i].address) {
			entries[count++] = replaced[i].address;
		} else if (!replaced[i].optional) {
			pr_err(PREFIX "the kernel has no function %s\n", replaced[i].name);
			return -ENOENT;
		}
	}
	rc = ftrace_set_filter_ips(&redirection, entries, count, 0, 0);
	if (!rc)
		rc = register_ftrace_function(&redirection);
	if (rc)
		pr_err(PREFIX "the functions can't be replaced: %d\n", rc);
	return rc;
}

/*
 * /dev/sev, with the ccp driver's own operations: the kernel's check that a command comes with an
 * fd of /dev/sev stays the kernel's. Its ioctls answer ENODEV, since the driver knows of no device.
 */
static struct miscdevice dev_sev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "sev",
};

static int make_dev_sev(void)
{
	dev_sev.fops = (void *)lookup("sev_fops");
	if (!dev_sev.fops) {
		pr_err(PREFIX "the ccp driver's sev_fops are not found (CONFIG_KALLSYMS_ALL)\n");
		return -ENOENT;
	}
	return misc_register(&dev_sev);
}

/*
 * KVM switches a static key on with the first VM and off with the last, which rewrites the
 * scheduler's code for each short-lived VM. Under QEMU's multi-threaded emulation another processor
 * can meet the breakpoint that is there meanwhile when it is gone again, and oops on it. With the
 * key held on, KVM only counts.
 */
static void hold_preempt_notifiers(void)
{
	void (*increment)(void) = (void *)lookup("preempt_notifier_inc");

	if (increment)
		increment();
}

static int __init standin_init(void)
{
	int rc;

	rc = find_lookup();
	if (rc)
		return rc;
	rc = make_dev_sev();
	if (rc)
		return rc;
	rc = report_init();
	if (!rc)
		rc = replace_functions();
	if (!rc)
		rc = processor_init(lookup);
	/* Nobody works on a host where this fails half-way: the emulated machine is ended. */
	if (rc)
		return rc;
	hold_preempt_notifiers();
	__module_get(THIS_MODULE);
	pr_info(PREFIX "this machine now looks like an SEV-SNP host; nothing on it is confidential\n");
	return 0;
}

/* A module without an exit function can't be unloaded, and transplanting looks for one. */
static void __exit standin_exit(void)
{
	unregister_ftrace_function(&redirection);
}

module_init(standin_init);
module_exit(standin_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("stand-in for the silicon of an SEV-SNP host, for tests of KVM's launch path");
MODULE_SOFTDEP("pre: ccp");
