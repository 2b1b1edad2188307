/* SPDX-License-Identifier: MIT */
/*
 * x86's own part of the KVM uAPI: <asm/kvm.h> and <asm/kvm_para.h>.
 *
 * SEV, SEV-ES and SNP are in sev.h, TDX is in tdx.h. Comes before kvm.h, because struct kvm_run
 * holds some of these by value. Numbers are literals, structures are complete: cffi and
 * ci/check_uapi compare both with the header the C compiler sees.
 */

/* Virtual machine types: the argument of KVM_CREATE_VM, the bits of KVM_CAP_VM_TYPES. */
#define KVM_X86_DEFAULT_VM 0
#define KVM_X86_SW_PROTECTED_VM 1
#define KVM_X86_SEV_VM 2
#define KVM_X86_SEV_ES_VM 3
#define KVM_X86_SNP_VM 4
#define KVM_X86_TDX_VM 5

/* Page offsets in the mapping of a vCPU fd. */
#define KVM_PIO_PAGE_OFFSET 1
#define KVM_COALESCED_MMIO_PAGE_OFFSET 2
#define KVM_DIRTY_LOG_PAGE_OFFSET 64

/* Exception vectors. */
#define DE_VECTOR 0
#define DB_VECTOR 1
#define BP_VECTOR 3
#define OF_VECTOR 4
#define BR_VECTOR 5
#define UD_VECTOR 6
#define NM_VECTOR 7
#define DF_VECTOR 8
#define TS_VECTOR 10
#define NP_VECTOR 11
#define SS_VECTOR 12
#define GP_VECTOR 13
#define PF_VECTOR 14
#define MF_VECTOR 16
#define AC_VECTOR 17
#define MC_VECTOR 18
#define XM_VECTOR 19
#define VE_VECTOR 20
#define CP_VECTOR 21
#define HV_VECTOR 28
#define VC_VECTOR 29
#define SX_VECTOR 30

/* Interrupt controllers: KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_LAPIC, KVM_SET_LAPIC. */
#define KVM_NR_INTERRUPTS 256
#define KVM_IOAPIC_NUM_PINS 24
#define KVM_IRQCHIP_PIC_MASTER 0
#define KVM_IRQCHIP_PIC_SLAVE 1
#define KVM_IRQCHIP_IOAPIC 2
#define KVM_NR_IRQCHIPS 3
#define KVM_APIC_REG_SIZE 0x400

struct kvm_pic_state {
	__u8 last_irr;
	__u8 irr;
	__u8 imr;
	__u8 isr;
	__u8 priority_add;
	__u8 irq_base;
	__u8 read_reg_select;
	__u8 poll;
	__u8 special_mask;
	__u8 init_state;
	__u8 auto_eoi;
	__u8 rotate_on_auto_eoi;
	__u8 special_fully_nested_mode;
	__u8 init4;
	__u8 elcr;
	__u8 elcr_mask;
};

struct kvm_ioapic_state {
	__u64 base_address;
	__u32 ioregsel;
	__u32 id;
	__u32 irr;
	__u32 pad;
	union {
		__u64 bits;
		struct {
			__u8 vector;
			__u8 delivery_mode:3;
			__u8 dest_mode:1;
			__u8 delivery_status:1;
			__u8 polarity:1;
			__u8 remote_irr:1;
			__u8 trig_mode:1;
			__u8 mask:1;
			__u8 reserve:7;
			__u8 reserved[4];
			__u8 dest_id;
		} fields;
	} redirtbl[24];
};

struct kvm_lapic_state {
	char regs[1024];
};

/* KVM_CAP_X2APIC_API */
#define KVM_X2APIC_API_USE_32BIT_IDS 0x1
#define KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK 0x2
#define KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST 0x4
#define KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST 0x8

/* struct kvm_run.flags */
#define KVM_RUN_X86_SMM 0x1
#define KVM_RUN_X86_BUS_LOCK 0x2
#define KVM_RUN_X86_GUEST_MODE 0x4

/* Registers: KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_SREGS2, KVM_GET_FPU and their SET forms. */
struct kvm_regs {
	__u64 rax, rbx, rcx, rdx;
	__u64 rsi, rdi, rsp, rbp;
	__u64 r8,  r9,  r10, r11;
	__u64 r12, r13, r14, r15;
	__u64 rip, rflags;
};

struct kvm_segment {
	__u64 base;
	__u32 limit;
	__u16 selector;
	__u8 type;
	__u8 present, dpl, db, s, l, g, avl;
	__u8 unusable;
	__u8 padding;
};

struct kvm_dtable {
	__u64 base;
	__u16 limit;
	__u16 padding[3];
};

struct kvm_sregs {
	struct kvm_segment cs, ds, es, fs, gs, ss;
	struct kvm_segment tr, ldt;
	struct kvm_dtable gdt, idt;
	__u64 cr0, cr2, cr3, cr4, cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 interrupt_bitmap[4];
};

#define KVM_SREGS2_FLAGS_PDPTRS_VALID 1

struct kvm_sregs2 {
	struct kvm_segment cs, ds, es, fs, gs, ss;
	struct kvm_segment tr, ldt;
	struct kvm_dtable gdt, idt;
	__u64 cr0, cr2, cr3, cr4, cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 flags;
	__u64 pdptrs[4];
};

struct kvm_fpu {
	__u8 fpr[8][16];
	__u16 fcw;
	__u16 fsw;
	__u8 ftwx;
	__u8 pad1;
	__u16 last_opcode;
	__u64 last_ip;
	__u64 last_dp;
	__u8 xmm[16][16];
	__u32 mxcsr;
	__u32 pad2;
};

/* Model-specific registers: KVM_GET_MSRS, KVM_SET_MSRS, the index lists, the filter. */
struct kvm_msr_entry {
	__u32 index;
	__u32 reserved;
	__u64 data;
};

struct kvm_msrs {
	__u32 nmsrs;
	__u32 pad;
	struct kvm_msr_entry entries[];
};

struct kvm_msr_list {
	__u32 nmsrs;
	__u32 indices[];
};

#define KVM_MSR_FILTER_MAX_BITMAP_SIZE 0x600
#define KVM_MSR_FILTER_READ 0x1
#define KVM_MSR_FILTER_WRITE 0x2
#define KVM_MSR_FILTER_RANGE_VALID_MASK 0x3
#define KVM_MSR_FILTER_MAX_RANGES 16
#define KVM_MSR_FILTER_DEFAULT_ALLOW 0x0
#define KVM_MSR_FILTER_DEFAULT_DENY 0x1
#define KVM_MSR_FILTER_VALID_MASK 0x1

struct kvm_msr_filter_range {
	__u32 flags;
	__u32 nmsrs;
	__u32 base;
	__u8 *bitmap;
};

struct kvm_msr_filter {
	__u32 flags;
	struct kvm_msr_filter_range ranges[16];
};

/* CPUID */
#define KVM_CPUID_FLAG_SIGNIFCANT_INDEX 0x1
#define KVM_CPUID_FLAG_STATEFUL_FUNC 0x2
#define KVM_CPUID_FLAG_STATE_READ_NEXT 0x4

struct kvm_cpuid_entry {
	__u32 function;
	__u32 eax;
	__u32 ebx;
	__u32 ecx;
	__u32 edx;
	__u32 padding;
};

struct kvm_cpuid {
	__u32 nent;
	__u32 padding;
	struct kvm_cpuid_entry entries[];
};

struct kvm_cpuid_entry2 {
	__u32 function;
	__u32 index;
	__u32 flags;
	__u32 eax;
	__u32 ebx;
	__u32 ecx;
	__u32 edx;
	__u32 padding[3];
};

struct kvm_cpuid2 {
	__u32 nent;
	__u32 padding;
	struct kvm_cpuid_entry2 entries[];
};

/* The programmable interval timer: KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2. */
#define KVM_PIT_FLAGS_HPET_LEGACY 0x1
#define KVM_PIT_FLAGS_SPEAKER_DATA_ON 0x2

struct kvm_pit_channel_state {
	__u32 count;
	__u16 latched_count;
	__u8 count_latched;
	__u8 status_latched;
	__u8 status;
	__u8 read_state;
	__u8 write_state;
	__u8 write_latch;
	__u8 rw_mode;
	__u8 mode;
	__u8 bcd;
	__u8 gate;
	__s64 count_load_time;
};

struct kvm_pit_state {
	struct kvm_pit_channel_state channels[3];
};

struct kvm_pit_state2 {
	struct kvm_pit_channel_state channels[3];
	__u32 flags;
	__u32 reserved[9];
};

struct kvm_reinject_control {
	__u8 pit_reinject;
	__u8 reserved[31];
};

/* Guest debugging: KVM_SET_GUEST_DEBUG, KVM_EXIT_DEBUG, KVM_GET_DEBUGREGS. */
#define KVM_GUESTDBG_USE_SW_BP 0x10000
#define KVM_GUESTDBG_USE_HW_BP 0x20000
#define KVM_GUESTDBG_INJECT_DB 0x40000
#define KVM_GUESTDBG_INJECT_BP 0x80000
#define KVM_GUESTDBG_BLOCKIRQ 0x100000

struct kvm_debug_exit_arch {
	__u32 exception;
	__u32 pad;
	__u64 pc;
	__u64 dr6;
	__u64 dr7;
};

struct kvm_guest_debug_arch {
	__u64 debugreg[8];
};

struct kvm_debugregs {
	__u64 db[4];
	__u64 dr6;
	__u64 dr7;
	__u64 flags;
	__u64 reserved[9];
};

/* Pending events: KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS. */
#define KVM_VCPUEVENT_VALID_NMI_PENDING 0x1
#define KVM_VCPUEVENT_VALID_SIPI_VECTOR 0x2
#define KVM_VCPUEVENT_VALID_SHADOW 0x4
#define KVM_VCPUEVENT_VALID_SMM 0x8
#define KVM_VCPUEVENT_VALID_PAYLOAD 0x10
#define KVM_VCPUEVENT_VALID_TRIPLE_FAULT 0x20
#define KVM_X86_SHADOW_INT_MOV_SS 0x1
#define KVM_X86_SHADOW_INT_STI 0x2

struct kvm_vcpu_events {
	struct {
		__u8 injected;
		__u8 nr;
		__u8 has_error_code;
		__u8 pending;
		__u32 error_code;
	} exception;
	struct {
		__u8 injected;
		__u8 nr;
		__u8 soft;
		__u8 shadow;
	} interrupt;
	struct {
		__u8 injected;
		__u8 pending;
		__u8 masked;
		__u8 pad;
	} nmi;
	__u32 sipi_vector;
	__u32 flags;
	struct {
		__u8 smm;
		__u8 pending;
		__u8 smm_inside_nmi;
		__u8 latched_init;
	} smi;
	struct {
		__u8 pending;
	} triple_fault;
	__u8 reserved[26];
	__u8 exception_has_payload;
	__u64 exception_payload;
};

/* Extended state: KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS. */
struct kvm_xsave {
	__u32 region[1024];
	__u32 extra[];
};

#define KVM_MAX_XCRS 16

struct kvm_xcr {
	__u32 xcr;
	__u32 reserved;
	__u64 value;
};

struct kvm_xcrs {
	__u32 nr_xcrs;
	__u32 flags;
	struct kvm_xcr xcrs[16];
	__u64 padding[16];
};

/* KVM_GET_ONE_REG, KVM_SET_ONE_REG */
#define KVM_X86_REG_TYPE_MSR 2
#define KVM_X86_REG_TYPE_KVM 3
#define KVM_REG_GUEST_SSP 0

/* Registers shared through struct kvm_run: KVM_CAP_SYNC_REGS. */
#define KVM_SYNC_X86_REGS 0x1
#define KVM_SYNC_X86_SREGS 0x2
#define KVM_SYNC_X86_EVENTS 0x4
#define KVM_SYNC_X86_VALID_FIELDS 7

struct kvm_sync_regs {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
};

/* KVM_CAP_DISABLE_QUIRKS2 */
#define KVM_X86_QUIRK_LINT0_REENABLED 0x1
#define KVM_X86_QUIRK_CD_NW_CLEARED 0x2
#define KVM_X86_QUIRK_LAPIC_MMIO_HOLE 0x4
#define KVM_X86_QUIRK_OUT_7E_INC_RIP 0x8
#define KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT 0x10
#define KVM_X86_QUIRK_FIX_HYPERCALL_INSN 0x20
#define KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS 0x40
#define KVM_X86_QUIRK_SLOT_ZAP_ALL 0x80
#define KVM_X86_QUIRK_STUFF_FEATURE_MSRS 0x100
#define KVM_X86_QUIRK_IGNORE_GUEST_PAT 0x200
#define KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM 0x400
#define KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT 0x800

/* Nested state: KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE. */
#define KVM_STATE_NESTED_FORMAT_VMX 0
#define KVM_STATE_NESTED_FORMAT_SVM 1
#define KVM_STATE_NESTED_GUEST_MODE 0x1
#define KVM_STATE_NESTED_RUN_PENDING 0x2
#define KVM_STATE_NESTED_EVMCS 0x4
#define KVM_STATE_NESTED_MTF_PENDING 0x8
#define KVM_STATE_NESTED_GIF_SET 0x100
#define KVM_STATE_NESTED_SMM_GUEST_MODE 0x1
#define KVM_STATE_NESTED_SMM_VMXON 0x2
#define KVM_STATE_NESTED_VMX_VMCS_SIZE 0x1000
#define KVM_STATE_NESTED_SVM_VMCB_SIZE 0x1000
#define KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE 0x1

struct kvm_vmx_nested_state_data {
	__u8 vmcs12[4096];
	__u8 shadow_vmcs12[4096];
};

struct kvm_vmx_nested_state_hdr {
	__u64 vmxon_pa;
	__u64 vmcs12_pa;
	struct {
		__u16 flags;
	} smm;
	__u16 pad;
	__u32 flags;
	__u64 preemption_timer_deadline;
};

struct kvm_svm_nested_state_data {
	__u8 vmcb12[4096];
};

struct kvm_svm_nested_state_hdr {
	__u64 vmcb_pa;
	__u64 gpat;
};

/*
 * The kernel's `data` at the end, a union of two flexible arrays, takes no room, and cffi can't
 * declare it. What it would hold begins at sizeof(struct kvm_nested_state), 128.
 */
struct kvm_nested_state {
	__u16 flags;
	__u16 format;
	__u32 size;
	union {
		struct kvm_vmx_nested_state_hdr vmx;
		struct kvm_svm_nested_state_hdr svm;
		__u8 pad[120];
	} hdr;
};

/* Device attributes of the system fd and of a vCPU. */
#define KVM_X86_GRP_SYSTEM 0
#define KVM_X86_XCOMP_GUEST_SUPP 0
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0

/* KVM_SET_PMU_EVENT_FILTER */
#define KVM_PMU_EVENT_ALLOW 0
#define KVM_PMU_EVENT_DENY 1
#define KVM_PMU_EVENT_FLAG_MASKED_EVENTS 0x1
#define KVM_PMU_EVENT_FLAGS_VALID_MASK 0x1

struct kvm_pmu_event_filter {
	__u32 action;
	__u32 nevents;
	__u32 fixed_counter_bitmap;
	__u32 flags;
	__u32 pad[4];
	__u64 events[];
};

/* KVM_HYPERV_EVENTFD */
#define KVM_HYPERV_CONN_ID_MASK 0xffffff
#define KVM_HYPERV_EVENTFD_DEASSIGN 0x1

struct kvm_hyperv_eventfd {
	__u32 conn_id;
	__s32 fd;
	__u32 flags;
	__u32 padding[3];
};

/* KVM_X86_SET_MCE */
struct kvm_x86_mce {
	__u64 status;
	__u64 addr;
	__u64 misc;
	__u64 mcg_status;
	__u8 bank;
	__u8 pad1[7];
	__u64 pad2[3];
};

/* KVM_EXIT_HYPERCALL */
#define KVM_EXIT_HYPERCALL_LONG_MODE 0x1

/* What a guest finds: CPUID leaves, feature bits and the argument of KVM_HC_MAP_GPA_RANGE. */
#define KVM_CPUID_SIGNATURE 0x40000000
#define KVM_CPUID_FEATURES 0x40000001
#define KVM_FEATURE_CLOCKSOURCE 0
#define KVM_FEATURE_NOP_IO_DELAY 1
#define KVM_FEATURE_MMU_OP 2
#define KVM_FEATURE_CLOCKSOURCE2 3
#define KVM_FEATURE_ASYNC_PF 4
#define KVM_FEATURE_STEAL_TIME 5
#define KVM_FEATURE_PV_EOI 6
#define KVM_FEATURE_PV_UNHALT 7
#define KVM_FEATURE_PV_TLB_FLUSH 9
#define KVM_FEATURE_ASYNC_PF_VMEXIT 10
#define KVM_FEATURE_PV_SEND_IPI 11
#define KVM_FEATURE_POLL_CONTROL 12
#define KVM_FEATURE_PV_SCHED_YIELD 13
#define KVM_FEATURE_ASYNC_PF_INT 14
#define KVM_FEATURE_MSI_EXT_DEST_ID 15
#define KVM_FEATURE_HC_MAP_GPA_RANGE 16
#define KVM_FEATURE_MIGRATION_CONTROL 17
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT 24
#define KVM_HINTS_REALTIME 0
#define MSR_KVM_WALL_CLOCK 0x11
#define MSR_KVM_SYSTEM_TIME 0x12
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_ASYNC_PF_EN 0x4b564d02
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define MSR_KVM_PV_EOI_EN 0x4b564d04
#define MSR_KVM_POLL_CONTROL 0x4b564d05
#define MSR_KVM_ASYNC_PF_INT 0x4b564d06
#define MSR_KVM_ASYNC_PF_ACK 0x4b564d07
#define MSR_KVM_MIGRATION_CONTROL 0x4b564d08
#define KVM_MAP_GPA_RANGE_PAGE_SZ_4K 0
#define KVM_MAP_GPA_RANGE_PAGE_SZ_2M 0x1
#define KVM_MAP_GPA_RANGE_PAGE_SZ_1G 0x2
#define KVM_MAP_GPA_RANGE_ENCRYPTED 16
#define KVM_MAP_GPA_RANGE_DECRYPTED 0
