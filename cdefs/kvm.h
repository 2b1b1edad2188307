/* SPDX-License-Identifier: MIT */
/*
 * The KVM uAPI that all architectures share: <linux/kvm.h>, as far as it concerns x86, and
 * <linux/kvm_para.h>. Grouped by the fd that takes the ioctl.
 */

#define KVM_API_VERSION 12

/* ---- /dev/kvm ---- */

#define KVM_GET_API_VERSION 0xae00
#define KVM_CREATE_VM 0xae01
#define KVM_GET_MSR_INDEX_LIST 0xc004ae02 /* struct kvm_msr_list */
#define KVM_CHECK_EXTENSION 0xae03
#define KVM_GET_VCPU_MMAP_SIZE 0xae04
#define KVM_GET_SUPPORTED_CPUID 0xc008ae05 /* struct kvm_cpuid2 */
#define KVM_GET_EMULATED_CPUID 0xc008ae09 /* struct kvm_cpuid2 */
#define KVM_GET_MSR_FEATURE_INDEX_LIST 0xc004ae0a /* struct kvm_msr_list */
#define KVM_GET_SUPPORTED_HV_CPUID 0xc008aec1 /* struct kvm_cpuid2 */

/* ---- VM fd ---- */

/* Memory slots. */
#define KVM_SET_USER_MEMORY_REGION 0x4020ae46 /* struct kvm_userspace_memory_region */
#define KVM_SET_USER_MEMORY_REGION2 0x40a0ae49 /* struct kvm_userspace_memory_region2 */
#define KVM_MEM_LOG_DIRTY_PAGES 0x1
#define KVM_MEM_READONLY 0x2
#define KVM_MEM_GUEST_MEMFD 0x4

struct kvm_userspace_memory_region {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size; /* bytes; 0 deletes the slot */
	__u64 userspace_addr;
};

struct kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size; /* bytes; 0 deletes the slot */
	__u64 userspace_addr;
	__u64 guest_memfd_offset; /* bytes */
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};

#define KVM_SET_NR_MMU_PAGES 0xae44
#define KVM_GET_NR_MMU_PAGES 0xae45
#define KVM_SET_TSS_ADDR 0xae47
#define KVM_SET_IDENTITY_MAP_ADDR 0x4008ae48 /* __u64 */

/* guest_memfd and memory attributes. 7.4's form of the latter is in next.h. */
#define KVM_CREATE_GUEST_MEMFD 0xc040aed4 /* struct kvm_create_guest_memfd */
#define GUEST_MEMFD_FLAG_MMAP 0x1
#define GUEST_MEMFD_FLAG_INIT_SHARED 0x2

struct kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};

#define KVM_SET_MEMORY_ATTRIBUTES 0x4020aed2 /* struct kvm_memory_attributes */
#define KVM_MEMORY_ATTRIBUTE_PRIVATE 0x8

struct kvm_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 attributes;
	__u64 flags;
};

/* Dirty log and dirty ring. */
#define KVM_GET_DIRTY_LOG 0x4010ae42 /* struct kvm_dirty_log */
#define KVM_CLEAR_DIRTY_LOG 0xc018aec0 /* struct kvm_clear_dirty_log */
#define KVM_RESET_DIRTY_RINGS 0xaec7
#define KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE 0x1
#define KVM_DIRTY_LOG_INITIALLY_SET 0x2
#define KVM_DIRTY_GFN_F_DIRTY 0x1
#define KVM_DIRTY_GFN_F_RESET 0x2
#define KVM_DIRTY_GFN_F_MASK 0x3

struct kvm_dirty_log {
	__u32 slot;
	__u32 padding1;
	union {
		void *dirty_bitmap; /* a bit per page */
		__u64 padding2;
	};
};

struct kvm_clear_dirty_log {
	__u32 slot;
	__u32 num_pages;
	__u64 first_page;
	union {
		void *dirty_bitmap; /* a bit per page */
		__u64 padding2;
	};
};

struct kvm_dirty_gfn {
	__u32 flags;
	__u32 slot;
	__u64 offset;
};

/* Confidential VMs: one ioctl, sub-commands in sev.h and tdx.h. TDX takes it on the vCPU fd too. */
#define KVM_MEMORY_ENCRYPT_OP 0xc008aeba /* unsigned long */
#define KVM_MEMORY_ENCRYPT_REG_REGION 0x8010aebb /* struct kvm_enc_region */
#define KVM_MEMORY_ENCRYPT_UNREG_REGION 0x8010aebc /* struct kvm_enc_region */

struct kvm_enc_region {
	__u64 addr;
	__u64 size;
};

/* Interrupts. */
#define KVM_CREATE_IRQCHIP 0xae60
#define KVM_IRQ_LINE 0x4008ae61 /* struct kvm_irq_level */
#define KVM_IRQ_LINE_STATUS 0xc008ae67 /* struct kvm_irq_level */
#define KVM_GET_IRQCHIP 0xc208ae62 /* struct kvm_irqchip */
#define KVM_SET_IRQCHIP 0x8208ae63 /* struct kvm_irqchip */
#define KVM_CREATE_PIT 0xae64
#define KVM_GET_PIT 0xc048ae65 /* struct kvm_pit_state */
#define KVM_SET_PIT 0x8048ae66 /* struct kvm_pit_state */
#define KVM_CREATE_PIT2 0x4040ae77 /* struct kvm_pit_config */
#define KVM_GET_PIT2 0x8070ae9f /* struct kvm_pit_state2 */
#define KVM_SET_PIT2 0x4070aea0 /* struct kvm_pit_state2 */
#define KVM_REINJECT_CONTROL 0xae71
#define KVM_SET_GSI_ROUTING 0x4008ae6a /* struct kvm_irq_routing */
#define KVM_SIGNAL_MSI 0x4020aea5 /* struct kvm_msi */
#define KVM_IRQFD 0x4020ae76 /* struct kvm_irqfd */
#define KVM_PIT_SPEAKER_DUMMY 1
#define KVM_IRQ_ROUTING_IRQCHIP 1
#define KVM_IRQ_ROUTING_MSI 2
#define KVM_IRQ_ROUTING_HV_SINT 4
#define KVM_IRQ_ROUTING_XEN_EVTCHN 5
#define KVM_IRQFD_FLAG_DEASSIGN 0x1
#define KVM_IRQFD_FLAG_RESAMPLE 0x2
#define KVM_MSI_VALID_DEVID 0x1

struct kvm_irq_level {
	union {
		__u32 irq;
		__s32 status;
	};
	__u32 level;
};

struct kvm_irqchip {
	__u32 chip_id;
	__u32 pad;
	union {
		char dummy[512];
		struct kvm_pic_state pic;
		struct kvm_ioapic_state ioapic;
	} chip;
};

struct kvm_pit_config {
	__u32 flags;
	__u32 pad[15];
};

struct kvm_irq_routing_irqchip {
	__u32 irqchip;
	__u32 pin;
};

struct kvm_irq_routing_msi {
	__u32 address_lo;
	__u32 address_hi;
	__u32 data;
	union {
		__u32 pad;
		__u32 devid;
	};
};

struct kvm_irq_routing_s390_adapter {
	__u64 ind_addr;
	__u64 summary_addr;
	__u64 ind_offset;
	__u32 summary_offset;
	__u32 adapter_id;
};

struct kvm_irq_routing_hv_sint {
	__u32 vcpu;
	__u32 sint;
};

struct kvm_irq_routing_xen_evtchn {
	__u32 port;
	__u32 vcpu;
	__u32 priority;
};

struct kvm_irq_routing_entry {
	__u32 gsi;
	__u32 type;
	__u32 flags;
	__u32 pad;
	union {
		struct kvm_irq_routing_irqchip irqchip;
		struct kvm_irq_routing_msi msi;
		struct kvm_irq_routing_s390_adapter adapter;
		struct kvm_irq_routing_hv_sint hv_sint;
		struct kvm_irq_routing_xen_evtchn xen_evtchn;
		__u32 pad[8];
	} u;
};

struct kvm_irq_routing {
	__u32 nr;
	__u32 flags;
	struct kvm_irq_routing_entry entries[];
};

struct kvm_irqfd {
	__u32 fd;
	__u32 gsi;
	__u32 flags;
	__u32 resamplefd;
	__u8 pad[16];
};

struct kvm_msi {
	__u32 address_lo;
	__u32 address_hi;
	__u32 data;
	__u32 flags;
	__u32 devid;
	__u8 pad[12];
};

/* ioeventfd and coalesced MMIO. */
#define KVM_IOEVENTFD 0x4040ae79 /* struct kvm_ioeventfd */
#define KVM_REGISTER_COALESCED_MMIO 0x4010ae67 /* struct kvm_coalesced_mmio_zone */
#define KVM_UNREGISTER_COALESCED_MMIO 0x4010ae68 /* struct kvm_coalesced_mmio_zone */
#define KVM_IOEVENTFD_FLAG_DATAMATCH 0x1
#define KVM_IOEVENTFD_FLAG_PIO 0x2
#define KVM_IOEVENTFD_FLAG_DEASSIGN 0x4
#define KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY 0x8
#define KVM_IOEVENTFD_VALID_FLAG_MASK 0x1f

struct kvm_ioeventfd {
	__u64 datamatch;
	__u64 addr;
	__u32 len; /* 1, 2, 4 or 8 bytes; 0 for any */
	__s32 fd;
	__u32 flags;
	__u8 pad[36];
};

struct kvm_coalesced_mmio_zone {
	__u64 addr;
	__u32 size;
	union {
		__u32 pad;
		__u32 pio;
	};
};

struct kvm_coalesced_mmio {
	__u64 phys_addr;
	__u32 len;
	union {
		__u32 pad;
		__u32 pio;
	};
	__u8 data[8];
};

struct kvm_coalesced_mmio_ring {
	__u32 first, last;
	struct kvm_coalesced_mmio coalesced_mmio[];
};

/* Clocks. */
#define KVM_SET_CLOCK 0x4030ae7b /* struct kvm_clock_data */
#define KVM_GET_CLOCK 0x8030ae7c /* struct kvm_clock_data */
#define KVM_CLOCK_TSC_STABLE 2
#define KVM_CLOCK_REALTIME 0x4
#define KVM_CLOCK_HOST_TSC 0x8

struct kvm_clock_data {
	__u64 clock;
	__u32 flags;
	__u32 pad0;
	__u64 realtime;
	__u64 host_tsc;
	__u32 pad[4];
};

/* Hyper-V: a guest's HvSignalEvent of a connection signals an eventfd. */
#define KVM_HYPERV_EVENTFD 0x4018aebd /* struct kvm_hyperv_eventfd */

/* Other VM ioctls. */
#define KVM_SET_BOOT_CPU_ID 0xae78
#define KVM_X86_SET_MSR_FILTER 0x4188aec6 /* struct kvm_msr_filter */
#define KVM_SET_PMU_EVENT_FILTER 0x4020aeb2 /* struct kvm_pmu_event_filter */
#define KVM_CREATE_VCPU 0xae41

/* ---- device fd; the attribute calls also on /dev/kvm, VM and vCPU fds ---- */

#define KVM_CREATE_DEVICE 0xc00caee0 /* struct kvm_create_device */
#define KVM_SET_DEVICE_ATTR 0x4018aee1 /* struct kvm_device_attr */
#define KVM_GET_DEVICE_ATTR 0x4018aee2 /* struct kvm_device_attr */
#define KVM_HAS_DEVICE_ATTR 0x4018aee3 /* struct kvm_device_attr */
#define KVM_CREATE_DEVICE_TEST 1
#define KVM_DEV_VFIO_FILE 1
#define KVM_DEV_VFIO_FILE_ADD 1
#define KVM_DEV_VFIO_FILE_DEL 2
#define KVM_DEV_VFIO_GROUP 1
#define KVM_DEV_VFIO_GROUP_ADD 1
#define KVM_DEV_VFIO_GROUP_DEL 2
#define KVM_DEV_TYPE_VFIO 4

struct kvm_create_device {
	__u32 type;
	__u32 fd;
	__u32 flags;
};

struct kvm_device_attr {
	__u32 flags;
	__u32 group;
	__u64 attr;
	__u64 addr;
};

/* ---- vCPU fd ---- */

#define KVM_RUN 0xae80
#define KVM_GET_REGS 0x8090ae81 /* struct kvm_regs */
#define KVM_SET_REGS 0x4090ae82 /* struct kvm_regs */
#define KVM_GET_SREGS 0x8138ae83 /* struct kvm_sregs */
#define KVM_SET_SREGS 0x4138ae84 /* struct kvm_sregs */
#define KVM_GET_SREGS2 0x8140aecc /* struct kvm_sregs2 */
#define KVM_SET_SREGS2 0x4140aecd /* struct kvm_sregs2 */
#define KVM_GET_FPU 0x81a0ae8c /* struct kvm_fpu */
#define KVM_SET_FPU 0x41a0ae8d /* struct kvm_fpu */
#define KVM_GET_XSAVE 0x9000aea4 /* struct kvm_xsave */
#define KVM_GET_XSAVE2 0x9000aecf /* struct kvm_xsave */
#define KVM_SET_XSAVE 0x5000aea5 /* struct kvm_xsave */
#define KVM_GET_XCRS 0x8188aea6 /* struct kvm_xcrs */
#define KVM_SET_XCRS 0x4188aea7 /* struct kvm_xcrs */
#define KVM_GET_DEBUGREGS 0x8080aea1 /* struct kvm_debugregs */
#define KVM_SET_DEBUGREGS 0x4080aea2 /* struct kvm_debugregs */
#define KVM_GET_MSRS 0xc008ae88 /* struct kvm_msrs */
#define KVM_SET_MSRS 0x4008ae89 /* struct kvm_msrs */
#define KVM_SET_CPUID 0x4008ae8a /* struct kvm_cpuid */
#define KVM_SET_CPUID2 0x4008ae90 /* struct kvm_cpuid2 */
#define KVM_GET_CPUID2 0xc008ae91 /* struct kvm_cpuid2 */
#define KVM_GET_LAPIC 0x8400ae8e /* struct kvm_lapic_state */
#define KVM_SET_LAPIC 0x4400ae8f /* struct kvm_lapic_state */
#define KVM_GET_MP_STATE 0x8004ae98 /* struct kvm_mp_state */
#define KVM_SET_MP_STATE 0x4004ae99 /* struct kvm_mp_state */
#define KVM_GET_VCPU_EVENTS 0x8040ae9f /* struct kvm_vcpu_events */
#define KVM_SET_VCPU_EVENTS 0x4040aea0 /* struct kvm_vcpu_events */
#define KVM_TRANSLATE 0xc018ae85 /* struct kvm_translation */
#define KVM_INTERRUPT 0x4004ae86 /* struct kvm_interrupt */
#define KVM_NMI 0xae9a
#define KVM_SMI 0xaeb7
#define KVM_SET_GUEST_DEBUG 0x4048ae9b /* struct kvm_guest_debug */
#define KVM_SET_SIGNAL_MASK 0x4004ae8b /* struct kvm_signal_mask */
#define KVM_TPR_ACCESS_REPORTING 0xc028ae92 /* struct kvm_tpr_access_ctl */
#define KVM_SET_VAPIC_ADDR 0x4008ae93 /* struct kvm_vapic_addr */
#define KVM_KVMCLOCK_CTRL 0xaead
#define KVM_PRE_FAULT_MEMORY 0xc040aed5 /* struct kvm_pre_fault_memory */
#define KVM_GET_NESTED_STATE 0xc080aebe /* struct kvm_nested_state */
#define KVM_SET_NESTED_STATE 0x4080aebf /* struct kvm_nested_state */
#define KVM_GET_ONE_REG 0x4010aeab /* struct kvm_one_reg */
#define KVM_SET_ONE_REG 0x4010aeac /* struct kvm_one_reg */
#define KVM_GET_REG_LIST 0xc008aeb0 /* struct kvm_reg_list */
#define KVM_X86_SETUP_MCE 0x4008ae9c /* __u64 */
#define KVM_X86_GET_MCE_CAP_SUPPORTED 0x8008ae9d /* __u64 */
#define KVM_X86_SET_MCE 0x4040ae9e /* struct kvm_x86_mce */

/* vCPU and VM fds; KVM_GET_TSC_KHZ and KVM_SET_TSC_KHZ of a VM need KVM_CAP_VM_TSC_CONTROL. */
#define KVM_ENABLE_CAP 0x4068aea3 /* struct kvm_enable_cap */
#define KVM_SET_TSC_KHZ 0xaea2
#define KVM_GET_TSC_KHZ 0xaea3
#define KVM_GET_STATS_FD 0xaece

#define KVM_MP_STATE_RUNNABLE 0
#define KVM_MP_STATE_UNINITIALIZED 1
#define KVM_MP_STATE_INIT_RECEIVED 2
#define KVM_MP_STATE_HALTED 3
#define KVM_MP_STATE_SIPI_RECEIVED 4
#define KVM_MP_STATE_STOPPED 5
#define KVM_MP_STATE_CHECK_STOP 6
#define KVM_MP_STATE_OPERATING 7
#define KVM_MP_STATE_LOAD 8
#define KVM_MP_STATE_AP_RESET_HOLD 9
#define KVM_MP_STATE_SUSPENDED 10
#define KVM_GUESTDBG_ENABLE 0x1
#define KVM_GUESTDBG_SINGLESTEP 0x2
#define KVM_REG_ARCH_MASK 0xff00000000000000
#define KVM_REG_GENERIC 0
#define KVM_REG_X86 0x2000000000000000
#define KVM_REG_SIZE_SHIFT 52
#define KVM_REG_SIZE_MASK 0xf0000000000000
#define KVM_REG_SIZE_U8 0x0
#define KVM_REG_SIZE_U16 0x10000000000000
#define KVM_REG_SIZE_U32 0x20000000000000
#define KVM_REG_SIZE_U64 0x30000000000000
#define KVM_REG_SIZE_U128 0x40000000000000
#define KVM_REG_SIZE_U256 0x50000000000000
#define KVM_REG_SIZE_U512 0x60000000000000
#define KVM_REG_SIZE_U1024 0x70000000000000
#define KVM_REG_SIZE_U2048 0x80000000000000

struct kvm_enable_cap {
	__u32 cap;
	__u32 flags;
	__u64 args[4];
	__u8 pad[64];
};

struct kvm_mp_state {
	__u32 mp_state;
};

struct kvm_guest_debug {
	__u32 control;
	__u32 pad;
	struct kvm_guest_debug_arch arch;
};

struct kvm_translation {
	__u64 linear_address;
	__u64 physical_address;
	__u8 valid;
	__u8 writeable;
	__u8 usermode;
	__u8 pad[5];
};

struct kvm_interrupt {
	__u32 irq;
};

struct kvm_signal_mask {
	__u32 len;
	__u8 sigset[];
};

struct kvm_tpr_access_ctl {
	__u32 enabled;
	__u32 flags;
	__u32 reserved[8];
};

struct kvm_vapic_addr {
	__u64 vapic_addr;
};

struct kvm_one_reg {
	__u64 id;
	__u64 addr;
};

struct kvm_reg_list {
	__u64 n;
	__u64 reg[];
};

struct kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};

/* Binary statistics, read from the fd of KVM_GET_STATS_FD. */
#define KVM_STATS_TYPE_SHIFT 0
#define KVM_STATS_TYPE_MASK 0xf
#define KVM_STATS_TYPE_CUMULATIVE 0x0
#define KVM_STATS_TYPE_INSTANT 0x1
#define KVM_STATS_TYPE_PEAK 0x2
#define KVM_STATS_TYPE_LINEAR_HIST 0x3
#define KVM_STATS_TYPE_LOG_HIST 0x4
#define KVM_STATS_TYPE_MAX 4
#define KVM_STATS_UNIT_SHIFT 4
#define KVM_STATS_UNIT_MASK 0xf0
#define KVM_STATS_UNIT_NONE 0x0
#define KVM_STATS_UNIT_BYTES 0x10
#define KVM_STATS_UNIT_SECONDS 0x20
#define KVM_STATS_UNIT_CYCLES 0x30
#define KVM_STATS_UNIT_BOOLEAN 0x40
#define KVM_STATS_UNIT_MAX 64
#define KVM_STATS_BASE_SHIFT 8
#define KVM_STATS_BASE_MASK 0xf00
#define KVM_STATS_BASE_POW10 0x0
#define KVM_STATS_BASE_POW2 0x100
#define KVM_STATS_BASE_MAX 256

struct kvm_stats_header {
	__u32 flags;
	__u32 name_size;
	__u32 num_desc;
	__u32 id_offset;
	__u32 desc_offset;
	__u32 data_offset;
};

struct kvm_stats_desc {
	__u32 flags;
	__s16 exponent;
	__u16 size;
	__u32 offset;
	__u32 bucket_size;
	char name[];
};

/* ---- what KVM_RUN leaves in the mapping of the vCPU fd ---- */

/* kvm_run.exit_reason */
#define KVM_EXIT_UNKNOWN 0
#define KVM_EXIT_EXCEPTION 1
#define KVM_EXIT_IO 2
#define KVM_EXIT_HYPERCALL 3
#define KVM_EXIT_DEBUG 4
#define KVM_EXIT_HLT 5
#define KVM_EXIT_MMIO 6
#define KVM_EXIT_IRQ_WINDOW_OPEN 7
#define KVM_EXIT_SHUTDOWN 8
#define KVM_EXIT_FAIL_ENTRY 9
#define KVM_EXIT_INTR 10
#define KVM_EXIT_SET_TPR 11
#define KVM_EXIT_TPR_ACCESS 12
#define KVM_EXIT_DCR 15
#define KVM_EXIT_NMI 16
#define KVM_EXIT_INTERNAL_ERROR 17
#define KVM_EXIT_OSI 18
#define KVM_EXIT_WATCHDOG 21
#define KVM_EXIT_EPR 23
#define KVM_EXIT_SYSTEM_EVENT 24
#define KVM_EXIT_IOAPIC_EOI 26
#define KVM_EXIT_HYPERV 27
#define KVM_EXIT_X86_RDMSR 29
#define KVM_EXIT_X86_WRMSR 30
#define KVM_EXIT_DIRTY_RING_FULL 31
#define KVM_EXIT_AP_RESET_HOLD 32
#define KVM_EXIT_X86_BUS_LOCK 33
#define KVM_EXIT_XEN 34
#define KVM_EXIT_NOTIFY 37
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_EXIT_TDX 40
#define KVM_EXIT_SNP_REQ_CERTS 43

/* kvm_run.hyperv.type, kvm_run.xen.type, kvm_run.io.direction */
#define KVM_EXIT_HYPERV_SYNIC 1
#define KVM_EXIT_HYPERV_HCALL 2
#define KVM_EXIT_HYPERV_SYNDBG 3
#define KVM_EXIT_XEN_HCALL 1
#define KVM_EXIT_IO_IN 0
#define KVM_EXIT_IO_OUT 1

/* kvm_run.internal.suberror, kvm_run.emulation_failure.flags */
#define KVM_INTERNAL_ERROR_EMULATION 1
#define KVM_INTERNAL_ERROR_SIMUL_EX 2
#define KVM_INTERNAL_ERROR_DELIVERY_EV 3
#define KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON 4
#define KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES 0x1

/* kvm_run.system_event.type */
#define KVM_SYSTEM_EVENT_SHUTDOWN 1
#define KVM_SYSTEM_EVENT_RESET 2
#define KVM_SYSTEM_EVENT_CRASH 3
#define KVM_SYSTEM_EVENT_WAKEUP 4
#define KVM_SYSTEM_EVENT_SUSPEND 5
#define KVM_SYSTEM_EVENT_SEV_TERM 6
#define KVM_SYSTEM_EVENT_TDX_FATAL 7

/* kvm_run.msr.reason */
#define KVM_MSR_EXIT_REASON_INVAL 0x1
#define KVM_MSR_EXIT_REASON_UNKNOWN 0x2
#define KVM_MSR_EXIT_REASON_FILTER 0x4
#define KVM_MSR_EXIT_REASON_VALID_MASK 0x7

/* kvm_run.notify.flags, kvm_run.memory_fault.flags */
#define KVM_NOTIFY_CONTEXT_INVALID 0x1
#define KVM_MEMORY_EXIT_FLAG_PRIVATE 0x8

/* sizeof(kvm_run.s), in bytes */
#define SYNC_REGS_SIZE_BYTES 2048

struct kvm_hyperv_exit {
	__u32 type;
	__u32 pad1;
	union {
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 evt_page;
			__u64 msg_page;
		} synic;
		struct {
			__u64 input;
			__u64 result;
			__u64 params[2];
		} hcall;
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 status;
			__u64 send_page;
			__u64 recv_page;
			__u64 pending_page;
		} syndbg;
	} u;
};

struct kvm_xen_exit {
	__u32 type;
	union {
		struct {
			__u32 longmode;
			__u32 cpl;
			__u64 input;
			__u64 result;
			__u64 params[6];
		} hcall;
	} u;
};

struct kvm_exit_snp_req_certs {
	__u64 gpa;
	__u64 npages;
	__u64 ret;
};

/*
 * Four of the exits hold an anonymous union inside a structure that has no name. cffi lays out what
 * has no name by itself, and lays the union's members side by side there. With a name it asks the
 * compiler: build.py gives each the type of the member in the kernel's own struct kvm_run.
 */
typedef struct {
	__u64 nr;
	__u64 args[6];
	__u64 ret;
	union {
		__u32 longmode;
		__u64 flags;
	};
} kvmh_run_hypercall;

typedef struct {
	__u32 suberror;
	__u32 ndata;
	__u64 flags;
	union {
		struct {
			__u8 insn_size;
			__u8 insn_bytes[15];
		};
	};
} kvmh_run_emulation_failure;

typedef struct {
	__u32 type;
	__u32 ndata;
	union {
		__u64 flags;
		__u64 data[16];
	};
} kvmh_run_system_event;

typedef struct {
	__u64 flags;
	__u64 nr;
	union {
		struct {
			__u64 ret;
			__u64 data[5];
		} unknown;
		struct {
			__u64 ret;
			__u64 gpa;
			__u64 size;
		} get_quote;
		struct {
			__u64 ret;
			__u64 leaf;
			__u64 r11, r12, r13, r14;
		} get_tdvmcall_info;
		struct {
			__u64 ret;
			__u64 vector;
		} setup_event_notify;
	};
} kvmh_run_tdx;

struct kvm_run {
	__u8 request_interrupt_window;
	__u8 immediate_exit;
	__u8 padding1[6];
	__u32 exit_reason;
	__u8 ready_for_interrupt_injection;
	__u8 if_flag;
	__u16 flags;
	__u64 cr8;
	__u64 apic_base;
	union {
		struct {
			__u64 hardware_exit_reason;
		} hw;
		struct {
			__u64 hardware_entry_failure_reason;
			__u32 cpu;
		} fail_entry;
		struct {
			__u32 exception;
			__u32 error_code;
		} ex;
		struct {
			__u8 direction;
			__u8 size;
			__u16 port;
			__u32 count;
			__u64 data_offset; /* from the start of struct kvm_run */
		} io;
		struct {
			struct kvm_debug_exit_arch arch;
		} debug;
		struct {
			__u64 phys_addr;
			__u8 data[8];
			__u32 len;
			__u8 is_write;
		} mmio;
		struct {
			__u64 phys_addr;
			__u8 data[8];
			__u32 len;
			__u8 is_write;
		} iocsr_io;
		kvmh_run_hypercall hypercall;
		struct {
			__u64 rip;
			__u32 is_write;
			__u32 pad;
		} tpr_access;
		struct {
			__u8 icptcode;
			__u16 ipa;
			__u32 ipb;
		} s390_sieic;
		__u64 s390_reset_flags;
		struct {
			__u64 trans_exc_code;
			__u32 pgm_code;
		} s390_ucontrol;
		struct {
			__u32 dcrn;
			__u32 data;
			__u8 is_write;
		} dcr;
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 data[16];
		} internal;
		kvmh_run_emulation_failure emulation_failure;
		struct {
			__u64 gprs[32];
		} osi;
		struct {
			__u64 nr;
			__u64 ret;
			__u64 args[9];
		} papr_hcall;
		struct {
			__u16 subchannel_id;
			__u16 subchannel_nr;
			__u32 io_int_parm;
			__u32 io_int_word;
			__u32 ipb;
			__u8 dequeued;
		} s390_tsch;
		struct {
			__u32 epr;
		} epr;
		kvmh_run_system_event system_event;
		struct {
			__u64 addr;
			__u8 ar;
			__u8 reserved;
			__u8 fc;
			__u8 sel1;
			__u16 sel2;
		} s390_stsi;
		struct {
			__u8 vector;
		} eoi;
		struct kvm_hyperv_exit hyperv;
		struct {
			__u64 esr_iss;
			__u64 fault_ipa;
		} arm_nisv;
		struct {
			__u8 error;
			__u8 pad[7];
			__u32 reason;
			__u32 index;
			__u64 data;
		} msr;
		struct kvm_xen_exit xen;
		struct {
			unsigned long extension_id;
			unsigned long function_id;
			unsigned long args[6];
			unsigned long ret[2];
		} riscv_sbi;
		struct {
			unsigned long csr_num;
			unsigned long new_value;
			unsigned long write_mask;
			unsigned long ret_value;
		} riscv_csr;
		struct {
			__u32 flags;
		} notify;
		struct {
			__u64 flags;
			__u64 gpa;
			__u64 size;
		} memory_fault;
		kvmh_run_tdx tdx;
		struct {
			__u64 flags;
			__u64 esr;
			__u64 gva;
			__u64 gpa;
		} arm_sea;
		struct kvm_exit_snp_req_certs snp_req_certs;
		char padding[256];
	};
	__u64 kvm_valid_regs;
	__u64 kvm_dirty_regs;
	union {
		struct kvm_sync_regs regs;
		char padding[2048];
	} s;
};

/* ---- arguments of KVM_ENABLE_CAP ---- */

#define KVM_X86_DISABLE_EXITS_MWAIT 0x1
#define KVM_X86_DISABLE_EXITS_HLT 0x2
#define KVM_X86_DISABLE_EXITS_PAUSE 0x4
#define KVM_X86_DISABLE_EXITS_CSTATE 0x8
#define KVM_X86_DISABLE_EXITS_APERFMPERF 0x10
#define KVM_X86_NOTIFY_VMEXIT_ENABLED 0x1
#define KVM_X86_NOTIFY_VMEXIT_USER 0x2
#define KVM_BUS_LOCK_DETECTION_OFF 0x1
#define KVM_BUS_LOCK_DETECTION_EXIT 0x2
#define KVM_PMU_CAP_DISABLE 0x1

/* ---- hypercalls a guest makes, and what they return ---- */

#define KVM_HC_VAPIC_POLL_IRQ 1
#define KVM_HC_MMU_OP 2
#define KVM_HC_FEATURES 3
#define KVM_HC_KICK_CPU 5
#define KVM_HC_CLOCK_PAIRING 9
#define KVM_HC_SEND_IPI 10
#define KVM_HC_SCHED_YIELD 11
#define KVM_HC_MAP_GPA_RANGE 12
#define KVM_ENOSYS 1000
#define KVM_EOPNOTSUPP 95

/* ---- capabilities: KVM_CHECK_EXTENSION, KVM_ENABLE_CAP ---- */

#define KVM_CAP_IRQCHIP 0
#define KVM_CAP_HLT 1
#define KVM_CAP_MMU_SHADOW_CACHE_CONTROL 2
#define KVM_CAP_USER_MEMORY 3
#define KVM_CAP_SET_TSS_ADDR 4
#define KVM_CAP_VAPIC 6
#define KVM_CAP_EXT_CPUID 7
#define KVM_CAP_CLOCKSOURCE 8
#define KVM_CAP_NR_VCPUS 9
#define KVM_CAP_NR_MEMSLOTS 10
#define KVM_CAP_PIT 11
#define KVM_CAP_NOP_IO_DELAY 12
#define KVM_CAP_PV_MMU 13
#define KVM_CAP_MP_STATE 14
#define KVM_CAP_COALESCED_MMIO 15
#define KVM_CAP_SYNC_MMU 16
#define KVM_CAP_IOMMU 18
#define KVM_CAP_DESTROY_MEMORY_REGION_WORKS 21
#define KVM_CAP_USER_NMI 22
#define KVM_CAP_SET_GUEST_DEBUG 23
#define KVM_CAP_REINJECT_CONTROL 24
#define KVM_CAP_IRQ_ROUTING 25
#define KVM_CAP_IRQ_INJECT_STATUS 26
#define KVM_CAP_ASSIGN_DEV_IRQ 29
#define KVM_CAP_JOIN_MEMORY_REGIONS_WORKS 30
#define KVM_CAP_MCE 31
#define KVM_CAP_IRQFD 32
#define KVM_CAP_PIT2 33
#define KVM_CAP_SET_BOOT_CPU_ID 34
#define KVM_CAP_PIT_STATE2 35
#define KVM_CAP_IOEVENTFD 36
#define KVM_CAP_SET_IDENTITY_MAP_ADDR 37
#define KVM_CAP_XEN_HVM 38
#define KVM_CAP_ADJUST_CLOCK 39
#define KVM_CAP_INTERNAL_ERROR_DATA 40
#define KVM_CAP_VCPU_EVENTS 41
#define KVM_CAP_HYPERV 44
#define KVM_CAP_HYPERV_VAPIC 45
#define KVM_CAP_HYPERV_SPIN 46
#define KVM_CAP_PCI_SEGMENT 47
#define KVM_CAP_INTR_SHADOW 49
#define KVM_CAP_DEBUGREGS 50
#define KVM_CAP_X86_ROBUST_SINGLESTEP 51
#define KVM_CAP_ENABLE_CAP 54
#define KVM_CAP_XSAVE 55
#define KVM_CAP_XCRS 56
#define KVM_CAP_ASYNC_PF 59
#define KVM_CAP_TSC_CONTROL 60
#define KVM_CAP_GET_TSC_KHZ 61
#define KVM_CAP_MAX_VCPUS 66
#define KVM_CAP_ONE_REG 70
#define KVM_CAP_TSC_DEADLINE_TIMER 72
#define KVM_CAP_SYNC_REGS 74
#define KVM_CAP_PCI_2_3 75
#define KVM_CAP_KVMCLOCK_CTRL 76
#define KVM_CAP_SIGNAL_MSI 77
#define KVM_CAP_READONLY_MEM 81
#define KVM_CAP_IRQFD_RESAMPLE 82
#define KVM_CAP_DEVICE_CTRL 89
#define KVM_CAP_EXT_EMUL_CPUID 95
#define KVM_CAP_HYPERV_TIME 96
#define KVM_CAP_IOAPIC_POLARITY_IGNORED 97
#define KVM_CAP_ENABLE_CAP_VM 98
#define KVM_CAP_IOEVENTFD_NO_LENGTH 100
#define KVM_CAP_VM_ATTRIBUTES 101
#define KVM_CAP_CHECK_EXTENSION_VM 105
#define KVM_CAP_DISABLE_QUIRKS 116
#define KVM_CAP_X86_SMM 117
#define KVM_CAP_MULTI_ADDRESS_SPACE 118
#define KVM_CAP_GUEST_DEBUG_HW_BPS 119
#define KVM_CAP_GUEST_DEBUG_HW_WPS 120
#define KVM_CAP_SPLIT_IRQCHIP 121
#define KVM_CAP_IOEVENTFD_ANY_LENGTH 122
#define KVM_CAP_HYPERV_SYNIC 123
#define KVM_CAP_VCPU_ATTRIBUTES 127
#define KVM_CAP_MAX_VCPU_ID 128
#define KVM_CAP_X2APIC_API 129
#define KVM_CAP_MSI_DEVID 131
#define KVM_CAP_IMMEDIATE_EXIT 136
#define KVM_CAP_X86_DISABLE_EXITS 143
#define KVM_CAP_HYPERV_SYNIC2 148
#define KVM_CAP_HYPERV_VP_INDEX 149
#define KVM_CAP_GET_MSR_FEATURES 153
#define KVM_CAP_HYPERV_EVENTFD 154
#define KVM_CAP_HYPERV_TLBFLUSH 155
#define KVM_CAP_NESTED_STATE 157
#define KVM_CAP_MSR_PLATFORM_INFO 159
#define KVM_CAP_HYPERV_SEND_IPI 161
#define KVM_CAP_COALESCED_PIO 162
#define KVM_CAP_HYPERV_ENLIGHTENED_VMCS 163
#define KVM_CAP_EXCEPTION_PAYLOAD 164
#define KVM_CAP_MANUAL_DIRTY_LOG_PROTECT 166
#define KVM_CAP_HYPERV_CPUID 167
#define KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 168
#define KVM_CAP_PMU_EVENT_FILTER 173
#define KVM_CAP_HYPERV_DIRECT_TLBFLUSH 175
#define KVM_CAP_HALT_POLL 182
#define KVM_CAP_ASYNC_PF_INT 183
#define KVM_CAP_LAST_CPU 184
#define KVM_CAP_SMALLER_MAXPHYADDR 185
#define KVM_CAP_STEAL_TIME 187
#define KVM_CAP_X86_USER_SPACE_MSR 188
#define KVM_CAP_X86_MSR_FILTER 189
#define KVM_CAP_ENFORCE_PV_FEATURE_CPUID 190
#define KVM_CAP_SYS_HYPERV_CPUID 191
#define KVM_CAP_DIRTY_LOG_RING 192
#define KVM_CAP_X86_BUS_LOCK_EXIT 193
#define KVM_CAP_SET_GUEST_DEBUG2 195
#define KVM_CAP_SGX_ATTRIBUTE 196
#define KVM_CAP_VM_COPY_ENC_CONTEXT_FROM 197
#define KVM_CAP_PTP_KVM 198
#define KVM_CAP_HYPERV_ENFORCE_CPUID 199
#define KVM_CAP_SREGS2 200
#define KVM_CAP_EXIT_HYPERCALL 201
#define KVM_CAP_BINARY_STATS_FD 203
#define KVM_CAP_EXIT_ON_EMULATION_FAILURE 204
#define KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM 206
#define KVM_CAP_VM_GPA_BITS 207
#define KVM_CAP_XSAVE2 208
#define KVM_CAP_SYS_ATTRIBUTES 209
#define KVM_CAP_PMU_CAPABILITY 212
#define KVM_CAP_DISABLE_QUIRKS2 213
#define KVM_CAP_VM_TSC_CONTROL 214
#define KVM_CAP_SYSTEM_EVENT_DATA 215
#define KVM_CAP_X86_TRIPLE_FAULT_EVENT 218
#define KVM_CAP_X86_NOTIFY_VMEXIT 219
#define KVM_CAP_VM_DISABLE_NX_HUGE_PAGES 220
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#define KVM_CAP_PMU_EVENT_MASKED_EVENTS 226
#define KVM_CAP_COUNTER_OFFSET 227
#define KVM_CAP_USER_MEMORY2 231
#define KVM_CAP_MEMORY_FAULT_INFO 232
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#define KVM_CAP_GUEST_MEMFD 234
#define KVM_CAP_VM_TYPES 235
#define KVM_CAP_PRE_FAULT_MEMORY 236
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#define KVM_CAP_X86_GUEST_MODE 238
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
