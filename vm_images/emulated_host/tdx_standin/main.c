// SPDX-License-Identifier: GPL-2.0
/*
 * The stand-in for a TDX host: start, its state in /proc, and the refusal of what it can't do.
 *
 * Load order: kvm, tdx_standin, kvm-intel (with CONFIG_KVM_INTEL_TDX).
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include "tdx_standin.h"

/*
 * The other types that KVM offers on Intel are entered with VMX instructions, which nobody emulates
 * here: their first VMREAD would take the kernel down. kvm_arch_init_vm(kvm, type) is where KVM looks
 * at the type, before anything of the VM exists; types that it doesn't offer it refuses itself.
 */
static bool needs_vmx(struct ftrace_regs *regs)
{
	unsigned long type = ftrace_regs_get_argument(regs, 1);

	return type == KVM_X86_DEFAULT_VM || type == KVM_X86_SW_PROTECTED_VM;
}

static int refuse_vm(struct kvm *kvm, unsigned long type)
{
	pr_info("tdx_standin: a VM of type %lu is refused: this emulated host has no VMX, only TD VMs (type %d) can be made\n",
		type, KVM_X86_TDX_VM);
	return -EOPNOTSUPP;
}

static struct redirect vm_types = {
	.name = "kvm_arch_init_vm", .to = refuse_vm, .wanted = needs_vmx,
};

static int show_state(struct seq_file *seq, void *unused)
{
	tdx_module_show(seq);
	return 0;
}

static int show_launch(struct seq_file *seq, void *unused)
{
	record_show(seq);
	return 0;
}

static int __init tdx_standin_init(void)
{
	int rc = find_symbols();

	if (!rc)
		rc = redirect(&vm_types);
	if (!rc)
		rc = seamcalls_start();
	if (!rc)
		rc = vmx_cpu_start();
	if (rc)
		return rc;
	proc_create_single("kvmharness_tdx", 0444, NULL, show_state);
	proc_create_single("kvmharness_tdx_launch", 0444, NULL, show_launch);
	/*
	 * KVM switches a static key on with the first VM and off with the last; each time the
	 * scheduler's code is rewritten, which QEMU's multi-threaded emulation does not always
	 * survive. With the key held on, KVM only counts.
	 */
	preempt_notifier_inc();
	/* Functions of the kernel lead here from now on. */
	__module_get(THIS_MODULE);
	pr_info("tdx_standin: emulated TDX host: software TDX module, no vCPU can run\n");
	return 0;
}
module_init(tdx_standin_init);

MODULE_DESCRIPTION("kvmharness: software stand-in for a TDX module and its processor");
MODULE_LICENSE("GPL");
