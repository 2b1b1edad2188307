// SPDX-License-Identifier: GPL-2.0
/*
 * The processor's side: what kvm-intel looks for on a TDX machine, and the few VMX instructions
 * that the launch of a TD executes.
 *
 * QEMU's emulation has no VMX: the capabilities are invented, and CR4.VMXE is never set, since
 * setting it makes QEMU 10.0's emulation loop.
 */
#include <linux/kdebug.h>
#include <asm/cpufeature.h>
#include <asm/paravirt.h>
#include <asm/vmx.h>
#include "tdx_standin.h"

static typeof(pv_ops.cpu.cpuid) real_cpuid;
static typeof(pv_ops.cpu.read_msr) real_read_msr;
static typeof(pv_ops.cpu.read_msr_safe) real_read_msr_safe;

/*
 * VMX capability MSRs (SDM volume 3, appendix A). Controls: any bit may be 0 or 1, so that KVM finds
 * whatever it asks for.
 */
static bool vmx_capability(u32 msr, u64 *value)
{
	switch (msr) {
	case MSR_IA32_FEAT_CTL:
		*value = FEAT_CTL_LOCKED | FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX;
		return true;
	case MSR_IA32_VMX_BASIC: /* revision 1, VMCS of 4 KiB, write-back */
		*value = 1 | 0x1000ULL << 32 | 6ULL << 50;
		return true;
	case MSR_IA32_VMX_MISC: /* HLT activity state, preemption timer rate 5 */
		*value = 1 << 6 | 5;
		return true;
	case MSR_IA32_VMX_EPT_VPID_CAP: /* 4 and 5 levels, WB, 2M, A/D bits, INVEPT, INVVPID */
		*value = 0xf01067341c1ULL;
		return true;
	case MSR_IA32_VMX_CR0_FIXED0: /* PE, NE, PG */
		*value = 0x80000021;
		return true;
	case MSR_IA32_VMX_CR0_FIXED1:
		*value = 0xffffffff;
		return true;
	case MSR_IA32_VMX_CR4_FIXED0: /* VMXE */
		*value = 0x2000;
		return true;
	case MSR_IA32_VMX_CR4_FIXED1:
		*value = 0x3fffff;
		return true;
	case MSR_IA32_VMX_VMCS_ENUM:
		*value = 0x2e;
		return true;
	case MSR_IA32_VMX_PROCBASED_CTLS3:
		*value = 0;
		return true;
	case MSR_IA32_VMX_PINBASED_CTLS:
	case MSR_IA32_VMX_PROCBASED_CTLS:
	case MSR_IA32_VMX_PROCBASED_CTLS2:
	case MSR_IA32_VMX_EXIT_CTLS:
	case MSR_IA32_VMX_ENTRY_CTLS:
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS ... MSR_IA32_VMX_TRUE_ENTRY_CTLS:
		*value = 0xffffffff00000000ULL;
		return true;
	}
	return false;
}

static u64 read_msr(u32 msr)
{
	u64 value;

	return vmx_capability(msr, &value) ? value : real_read_msr(msr);
}

static int read_msr_safe(u32 msr, u64 *value)
{
	return vmx_capability(msr, value) ? 0 : real_read_msr_safe(msr, value);
}

static void cpuid(unsigned int *eax, unsigned int *ebx, unsigned int *ecx, unsigned int *edx)
{
	unsigned int leaf = *eax;

	real_cpuid(eax, ebx, ecx, edx);
	if (leaf == 1)
		*ecx |= BIT(5); /* VMX */
}

/*
 * SEAMCALL, 66 0F 01 CF, raises #UD too. Of the kernel's functions that execute it all but
 * tdh_vp_enter() are led elsewhere (seamcalls.c); ftrace can't reach that one. RAX has the leaf, and
 * then the status; carry would say that there is no TDX module.
 */
static bool answer_seamcall(struct pt_regs *regs)
{
	static const u8 opcode[] = { 0x66, 0x0f, 0x01, 0xcf };
	struct tdx_module_args args = {
		.rcx = regs->cx, .rdx = regs->dx, .r8 = regs->r8, .r9 = regs->r9,
		.r10 = regs->r10, .r11 = regs->r11, .r12 = regs->r12, .r13 = regs->r13,
		.r14 = regs->r14, .r15 = regs->r15, .rbx = regs->bx, .rdi = regs->di,
		.rsi = regs->si,
	};

	if (memcmp((const void *)regs->ip, opcode, sizeof(opcode)))
		return false;
	regs->ax = tdx_module_call(regs->ax, &args);
	regs->cx = args.rcx;
	regs->dx = args.rdx;
	regs->r8 = args.r8;
	regs->r9 = args.r9;
	regs->r10 = args.r10;
	regs->r11 = args.r11;
	regs->r12 = args.r12;
	regs->r13 = args.r13;
	regs->r14 = args.r14;
	regs->r15 = args.r15;
	regs->bx = args.rbx;
	regs->di = args.rdi;
	regs->si = args.rsi;
	regs->flags &= ~X86_EFLAGS_CF;
	regs->ip += sizeof(opcode);
	return true;
}

/*
 * INVEPT and INVVPID raise #UD under emulation. There is nothing to invalidate: no guest ever ran.
 * Skip them as if they had succeeded. Their encoding is 66 0F 38 80/81 /r with a memory operand.
 */
static int answer_undefined(struct notifier_block *nb, unsigned long event, void *data)
{
	struct die_args *args = data;
	const u8 *start = (const u8 *)args->regs->ip, *at = start;
	u8 modrm, mod;

	if (event != DIE_TRAP || args->trapnr != X86_TRAP_UD || user_mode(args->regs))
		return NOTIFY_DONE;
	if (answer_seamcall(args->regs))
		return NOTIFY_STOP;
	while (*at == 0x66 || *at == 0x3e || (*at & 0xf0) == 0x40) /* operand size, DS, REX */
		at++;
	if (at[0] != 0x0f || at[1] != 0x38 || (at[2] != 0x80 && at[2] != 0x81))
		return NOTIFY_DONE;
	modrm = at[3];
	mod = modrm >> 6;
	at += 4;
	if ((modrm & 7) == 4)
		at++; /* SIB */
	if (mod == 1)
		at += 1; /* 8-bit displacement */
	else if (mod == 2 || (modrm & 7) == 5)
		at += 4; /* 32-bit displacement, or RIP-relative */
	/* VMsucceed: SDM volume 3, "Conventions" of the VMX instruction reference. */
	args->regs->flags &= ~(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF |
			       X86_EFLAGS_SF | X86_EFLAGS_OF);
	args->regs->ip += at - start;
	return NOTIFY_STOP;
}

static struct notifier_block undefined_opcode = {
	.notifier_call = answer_undefined,
	.priority = 100, /* before those that report an oops */
};

/* Turning VMX on and off (VMXON, VMXOFF, CR4.VMXE): nothing to do. */
static int virt_get_ref(int feature)
{
	return 0;
}

static void virt_put_ref(int feature)
{
}

static struct redirect virtualization[] = {
	{ .name = "x86_virt_get_ref", .to = virt_get_ref },
	{ .name = "x86_virt_put_ref", .to = virt_put_ref },
};

static void set_feature(int feature)
{
	int cpu;

	set_bit(feature, (unsigned long *)boot_cpu_data.x86_capability);
	for_each_possible_cpu(cpu)
		set_bit(feature, (unsigned long *)cpu_data(cpu).x86_capability);
}

int vmx_cpu_start(void)
{
	typeof(pv_ops.cpu.cpuid) new_cpuid = cpuid;
	typeof(pv_ops.cpu.read_msr) new_read_msr = read_msr;
	typeof(pv_ops.cpu.read_msr_safe) new_read_msr_safe = read_msr_safe;
	int rc = 0, i;

	for (i = 0; i < ARRAY_SIZE(virtualization) && !rc; i++)
		rc = redirect(&virtualization[i]);
	if (rc)
		return rc;
	real_cpuid = pv_ops.cpu.cpuid;
	real_read_msr = pv_ops.cpu.read_msr;
	real_read_msr_safe = pv_ops.cpu.read_msr_safe;
	rc = overwrite_data(&pv_ops.cpu.cpuid, &new_cpuid, sizeof(new_cpuid)) ?:
	     overwrite_data(&pv_ops.cpu.read_msr, &new_read_msr, sizeof(new_read_msr)) ?:
	     overwrite_data(&pv_ops.cpu.read_msr_safe, &new_read_msr_safe,
			    sizeof(new_read_msr_safe));
	if (rc)
		return rc;
	set_feature(X86_FEATURE_VMX);
	set_feature(X86_FEATURE_MSR_IA32_FEAT_CTL);
	set_feature(X86_FEATURE_TDX_HOST_PLATFORM);
	register_die_notifier(&undefined_opcode);
	return 0;
}
