/* SPDX-License-Identifier: MIT */
/*
 * What the kernel headers of this build may lack, so that one source compiles with Debian 12's
 * headers (6.1) and with the newest. Where the headers have a name, theirs is used, and cffi compares
 * it with the literal or the layout in our declarations.
 *
 * Three kinds of fallback:
 *
 * - A macro gets an #ifndef with the kernel's own text. The literal in the declarations is then
 *   compared with the expression (_IOWR and the size of a structure), not with a copy of itself.
 *
 * - A structure, or one that gained fields, can't be asked for with #ifndef. It is keyed on a macro
 *   that came with its last field or later, and ours has another name: `#define kvm_run kvmh_kvm_run`
 *   lets the rest of the source, and the code cffi writes, go on saying `struct kvm_run`. So nothing
 *   is declared twice, even where a vendor's headers have the structure but not the macro. That is
 *   sound because the kernel only adds: exits to a union that padding[] keeps at its size, names for
 *   what was padding, fields at the end of a member of such a union. No ioctl's argument changed its
 *   size.
 *
 * - An enumerator can't be asked for either. It becomes a macro of the same value, keyed likewise.
 *   <linux/psp-sev.h> has no macro that tells its age, so its names go by LINUX_VERSION_CODE, which
 *   comes from the same package.
 *
 * ci/check_uapi leaves this file out, so that what a header has is compared with the header alone, and
 * looks at the fallbacks with --fallbacks.
 */
#ifndef KVMH_COMPAT_H
#define KVMH_COMPAT_H

#include <stddef.h>
#include <stdint.h>

#include <linux/const.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/psp-sev.h>
#include <linux/types.h>
#include <linux/version.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#error "kvmharness needs kernel headers of 6.1 or newer (Debian package linux-libc-dev); or set KVMHARNESS_UAPI=<dir> to a newer tree"
#endif

/* 6.2 to 6.7 */
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif
#ifndef KVM_MSR_FILTER_RANGE_VALID_MASK
#define KVM_MSR_FILTER_RANGE_VALID_MASK (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)
#endif
#ifndef KVM_MSR_FILTER_VALID_MASK
#define KVM_MSR_FILTER_VALID_MASK (KVM_MSR_FILTER_DEFAULT_DENY)
#endif
#ifndef KVM_MSR_EXIT_REASON_VALID_MASK
#define KVM_MSR_EXIT_REASON_VALID_MASK \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#endif
#ifndef KVM_CAP_PMU_EVENT_MASKED_EVENTS
#define KVM_CAP_PMU_EVENT_MASKED_EVENTS 226
#endif
#ifndef KVM_PMU_EVENT_FLAG_MASKED_EVENTS
#define KVM_PMU_EVENT_FLAG_MASKED_EVENTS _BITUL(0)
#endif
#ifndef KVM_PMU_EVENT_FLAGS_VALID_MASK
#define KVM_PMU_EVENT_FLAGS_VALID_MASK (KVM_PMU_EVENT_FLAG_MASKED_EVENTS)
#endif
#ifndef KVM_CAP_COUNTER_OFFSET
#define KVM_CAP_COUNTER_OFFSET 227
#endif
#ifndef KVM_EXIT_HYPERCALL_LONG_MODE
#define KVM_EXIT_HYPERCALL_LONG_MODE _BITULL(0)
#endif
#ifndef KVM_DEV_VFIO_FILE
#define KVM_DEV_VFIO_FILE 1
#endif
#ifndef KVM_DEV_VFIO_FILE_ADD
#define KVM_DEV_VFIO_FILE_ADD 1
#endif
#ifndef KVM_DEV_VFIO_FILE_DEL
#define KVM_DEV_VFIO_FILE_DEL 2
#endif

/* 6.8: guest_memfd, memory attributes, VM types */
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_X86_DEFAULT_VM
#define KVM_X86_DEFAULT_VM 0
#endif
#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_SW_PROTECTED_VM 1
#endif
#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif
#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3)
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvmh_kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};
#define kvm_userspace_memory_region2 kvmh_kvm_userspace_memory_region2
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD
struct kvmh_kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};
#define kvm_create_guest_memfd kvmh_kvm_create_guest_memfd
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvmh_kvm_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 attributes;
	__u64 flags;
};
#define kvm_memory_attributes kvmh_kvm_memory_attributes
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif

/* 6.9 to 6.12: SEV_INIT2, SNP, pre-fault */
#ifndef KVM_X86_SEV_VM
#define KVM_X86_SEV_VM 2
#endif
#ifndef KVM_X86_SEV_ES_VM
#define KVM_X86_SEV_ES_VM 3
#endif
#ifndef KVM_X86_SNP_VM
#define KVM_X86_SNP_VM 4
#endif
#ifndef KVM_X86_GRP_SYSTEM
#define KVM_X86_GRP_SYSTEM 0
#endif
#ifndef KVM_X86_GRP_SEV
#define KVM_X86_GRP_SEV 1
#endif
#ifndef KVM_X86_SEV_VMSA_FEATURES
#define KVM_X86_SEV_VMSA_FEATURES 0
#endif
#ifndef KVM_RUN_X86_GUEST_MODE
#define KVM_RUN_X86_GUEST_MODE (1 << 2)
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_CAP_X86_GUEST_MODE
#define KVM_CAP_X86_GUEST_MODE 238
#endif
#ifndef KVM_X86_QUIRK_SLOT_ZAP_ALL
#define KVM_X86_QUIRK_SLOT_ZAP_ALL (1 << 7)
#endif
#ifndef KVM_X86_QUIRK_STUFF_FEATURE_MSRS
#define KVM_X86_QUIRK_STUFF_FEATURE_MSRS (1 << 8)
#endif
#ifndef KVM_X86_QUIRK_IGNORE_GUEST_PAT
#define KVM_X86_QUIRK_IGNORE_GUEST_PAT (1 << 9)
#endif

#ifndef KVM_PRE_FAULT_MEMORY
struct kvmh_kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};
#define kvm_pre_fault_memory kvmh_kvm_pre_fault_memory
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

/* Older headers have some of these without the names of their padding. */
#ifndef KVM_SEV_SNP_PAGE_TYPE_NORMAL
#define KVM_SEV_INIT2 22
#define KVM_SEV_SNP_LAUNCH_START 100
#define KVM_SEV_SNP_LAUNCH_UPDATE 101
#define KVM_SEV_SNP_LAUNCH_FINISH 102

#define KVM_SEV_SNP_PAGE_TYPE_NORMAL 0x1
#define KVM_SEV_SNP_PAGE_TYPE_ZERO 0x3
#define KVM_SEV_SNP_PAGE_TYPE_UNMEASURED 0x4
#define KVM_SEV_SNP_PAGE_TYPE_SECRETS 0x5
#define KVM_SEV_SNP_PAGE_TYPE_CPUID 0x6
#define KVM_SEV_SNP_ID_BLOCK_SIZE 96
#define KVM_SEV_SNP_ID_AUTH_SIZE 4096
#define KVM_SEV_SNP_FINISH_DATA_SIZE 32

struct kvmh_kvm_sev_cmd {
	__u32 id;
	__u32 pad0;
	__u64 data;
	__u32 error;
	__u32 sev_fd;
};
#define kvm_sev_cmd kvmh_kvm_sev_cmd

struct kvmh_kvm_sev_init {
	__u64 vmsa_features;
	__u32 flags;
	__u16 ghcb_version;
	__u16 pad1;
	__u32 pad2[8];
};
#define kvm_sev_init kvmh_kvm_sev_init

struct kvmh_kvm_sev_launch_start {
	__u32 handle;
	__u32 policy;
	__u64 dh_uaddr;
	__u32 dh_len;
	__u32 pad0;
	__u64 session_uaddr;
	__u32 session_len;
	__u32 pad1;
};
#define kvm_sev_launch_start kvmh_kvm_sev_launch_start

struct kvmh_kvm_sev_launch_update_data {
	__u64 uaddr;
	__u32 len;
	__u32 pad0;
};
#define kvm_sev_launch_update_data kvmh_kvm_sev_launch_update_data

struct kvmh_kvm_sev_launch_secret {
	__u64 hdr_uaddr;
	__u32 hdr_len;
	__u32 pad0;
	__u64 guest_uaddr;
	__u32 guest_len;
	__u32 pad1;
	__u64 trans_uaddr;
	__u32 trans_len;
	__u32 pad2;
};
#define kvm_sev_launch_secret kvmh_kvm_sev_launch_secret

struct kvmh_kvm_sev_launch_measure {
	__u64 uaddr;
	__u32 len;
	__u32 pad0;
};
#define kvm_sev_launch_measure kvmh_kvm_sev_launch_measure

struct kvmh_kvm_sev_dbg {
	__u64 src_uaddr;
	__u64 dst_uaddr;
	__u32 len;
	__u32 pad0;
};
#define kvm_sev_dbg kvmh_kvm_sev_dbg

struct kvmh_kvm_sev_attestation_report {
	__u8 mnonce[16];
	__u64 uaddr;
	__u32 len;
	__u32 pad0;
};
#define kvm_sev_attestation_report kvmh_kvm_sev_attestation_report

struct kvmh_kvm_sev_send_start {
	__u32 policy;
	__u32 pad0;
	__u64 pdh_cert_uaddr;
	__u32 pdh_cert_len;
	__u32 pad1;
	__u64 plat_certs_uaddr;
	__u32 plat_certs_len;
	__u32 pad2;
	__u64 amd_certs_uaddr;
	__u32 amd_certs_len;
	__u32 pad3;
	__u64 session_uaddr;
	__u32 session_len;
	__u32 pad4;
};
#define kvm_sev_send_start kvmh_kvm_sev_send_start

struct kvmh_kvm_sev_send_update_data {
	__u64 hdr_uaddr;
	__u32 hdr_len;
	__u32 pad0;
	__u64 guest_uaddr;
	__u32 guest_len;
	__u32 pad1;
	__u64 trans_uaddr;
	__u32 trans_len;
	__u32 pad2;
};
#define kvm_sev_send_update_data kvmh_kvm_sev_send_update_data

struct kvmh_kvm_sev_receive_start {
	__u32 handle;
	__u32 policy;
	__u64 pdh_uaddr;
	__u32 pdh_len;
	__u32 pad0;
	__u64 session_uaddr;
	__u32 session_len;
	__u32 pad1;
};
#define kvm_sev_receive_start kvmh_kvm_sev_receive_start

struct kvmh_kvm_sev_receive_update_data {
	__u64 hdr_uaddr;
	__u32 hdr_len;
	__u32 pad0;
	__u64 guest_uaddr;
	__u32 guest_len;
	__u32 pad1;
	__u64 trans_uaddr;
	__u32 trans_len;
	__u32 pad2;
};
#define kvm_sev_receive_update_data kvmh_kvm_sev_receive_update_data

struct kvmh_kvm_sev_snp_launch_start {
	__u64 policy;
	__u8 gosvw[16];
	__u16 flags;
	__u8 pad0[6];
	__u64 pad1[4];
};
#define kvm_sev_snp_launch_start kvmh_kvm_sev_snp_launch_start

struct kvmh_kvm_sev_snp_launch_update {
	__u64 gfn_start;
	__u64 uaddr;
	__u64 len;
	__u8 type;
	__u8 pad0;
	__u16 flags;
	__u32 pad1;
	__u64 pad2[4];
};
#define kvm_sev_snp_launch_update kvmh_kvm_sev_snp_launch_update

struct kvmh_kvm_sev_snp_launch_finish {
	__u64 id_block_uaddr;
	__u64 id_auth_uaddr;
	__u8 id_block_en;
	__u8 auth_key_en;
	__u8 vcek_disabled;
	__u8 host_data[32];
	__u8 pad0[3];
	__u16 flags;
	__u64 pad1[4];
};
#define kvm_sev_snp_launch_finish kvmh_kvm_sev_snp_launch_finish
#endif

/* 6.16: TDX */
#ifndef KVM_X86_TDX_VM
#define KVM_X86_TDX_VM 5
#endif
#ifndef KVM_EXIT_TDX
#define KVM_EXIT_TDX 40
#endif
#ifndef KVM_SYSTEM_EVENT_TDX_FATAL
#define KVM_SYSTEM_EVENT_TDX_FATAL 7
#endif

#ifndef KVM_TDX_MEASURE_MEMORY_REGION
#define KVM_TDX_MEASURE_MEMORY_REGION _BITULL(0)
#define KVM_TDX_CAPABILITIES 0
#define KVM_TDX_INIT_VM 1
#define KVM_TDX_INIT_VCPU 2
#define KVM_TDX_INIT_MEM_REGION 3
#define KVM_TDX_FINALIZE_VM 4
#define KVM_TDX_GET_CPUID 5

struct kvmh_kvm_tdx_cmd {
	__u32 id;
	__u32 flags;
	__u64 data;
	__u64 hw_error;
};
#define kvm_tdx_cmd kvmh_kvm_tdx_cmd

struct kvmh_kvm_tdx_capabilities {
	__u64 supported_attrs;
	__u64 supported_xfam;
	__u64 kernel_tdvmcallinfo_1_r11;
	__u64 user_tdvmcallinfo_1_r11;
	__u64 kernel_tdvmcallinfo_1_r12;
	__u64 user_tdvmcallinfo_1_r12;
	__u64 reserved[250];
	struct kvm_cpuid2 cpuid;
};
#define kvm_tdx_capabilities kvmh_kvm_tdx_capabilities

struct kvmh_kvm_tdx_init_vm {
	__u64 attributes;
	__u64 xfam;
	__u64 mrconfigid[6];
	__u64 mrowner[6];
	__u64 mrownerconfig[6];
	__u64 reserved[12];
	struct kvm_cpuid2 cpuid;
};
#define kvm_tdx_init_vm kvmh_kvm_tdx_init_vm

struct kvmh_kvm_tdx_init_mem_region {
	__u64 source_addr;
	__u64 gpa;
	__u64 nr_pages;
};
#define kvm_tdx_init_mem_region kvmh_kvm_tdx_init_mem_region
#endif

/* 6.17 to 7.3 */
#ifndef KVM_X86_DISABLE_EXITS_APERFMPERF
#define KVM_X86_DISABLE_EXITS_APERFMPERF (1 << 4)
#endif
#ifndef KVM_X86_SNP_POLICY_BITS
#define KVM_X86_SNP_POLICY_BITS 1
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif
#ifndef KVM_X86_REG_TYPE_MSR
#define KVM_X86_REG_TYPE_MSR 2
#endif
#ifndef KVM_X86_REG_TYPE_KVM
#define KVM_X86_REG_TYPE_KVM 3
#endif
#ifndef KVM_REG_GUEST_SSP
#define KVM_REG_GUEST_SSP 0
#endif
#ifndef KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
#define KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST _BITULL(2)
#endif
#ifndef KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST
#define KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST _BITULL(3)
#endif
#ifndef KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM
#define KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM (1 << 10)
#endif
#ifndef KVM_SEV_PAGE_TYPE_INVALID
#define KVM_SEV_PAGE_TYPE_INVALID 0x0
#endif
#ifndef CP_VECTOR
#define CP_VECTOR 21
#endif
#ifndef HV_VECTOR
#define HV_VECTOR 28
#endif
#ifndef VC_VECTOR
#define VC_VECTOR 29
#endif
#ifndef SX_VECTOR
#define SX_VECTOR 30
#endif

#ifndef KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT
#define KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT (1 << 11)

struct kvmh_kvm_svm_nested_state_hdr {
	__u64 vmcb_pa;
	__u64 gpat;
};
#define kvm_svm_nested_state_hdr kvmh_kvm_svm_nested_state_hdr

struct kvmh_kvm_nested_state {
	__u16 flags;
	__u16 format;
	__u32 size;
	union {
		struct kvm_vmx_nested_state_hdr vmx;
		struct kvm_svm_nested_state_hdr svm;
		__u8 pad[120];
	} hdr;
	union {
		__DECLARE_FLEX_ARRAY(struct kvm_vmx_nested_state_data, vmx);
		__DECLARE_FLEX_ARRAY(struct kvm_svm_nested_state_data, svm);
	} data;
};
#define kvm_nested_state kvmh_kvm_nested_state
#endif

#ifndef KVM_X86_SEV_SNP_REQ_CERTS
#define KVM_X86_SEV_SNP_REQ_CERTS 2
#define KVM_SEV_SNP_ENABLE_REQ_CERTS 103
#endif

/* The newest exit says that struct kvm_run has all exits: they are added one after the other. */
#ifndef KVM_EXIT_SNP_REQ_CERTS
#define KVM_EXIT_SNP_REQ_CERTS 43

struct kvmh_kvm_exit_snp_req_certs {
	__u64 gpa;
	__u64 npages;
	__u64 ret;
};
#define kvm_exit_snp_req_certs kvmh_kvm_exit_snp_req_certs

struct kvmh_kvm_run {
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
			__u64 data_offset;
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
		struct {
			__u64 nr;
			__u64 args[6];
			__u64 ret;
			union {
				__u32 longmode;
				__u64 flags;
			};
		} hypercall;
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
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 flags;
			union {
				struct {
					__u8 insn_size;
					__u8 insn_bytes[15];
				};
			};
		} emulation_failure;
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
		struct {
			__u32 type;
			__u32 ndata;
			union {
				__u64 flags;
				__u64 data[16];
			};
		} system_event;
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
		struct {
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
		} tdx;
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
#define kvm_run kvmh_kvm_run
#endif

/* <linux/psp-sev.h>: complete from 7.2 on. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
#define SNP_PLATFORM_STATUS 9
#define SNP_COMMIT 10
#define SNP_SET_CONFIG 11
#define SNP_VLEK_LOAD 12
#define SEV_RET_INVALID_CONFIG 0x0003
#define SEV_RET_INVALID_PAGE_SIZE 0x0019
#define SEV_RET_INVALID_PAGE_STATE 0x001a
#define SEV_RET_INVALID_MDATA_ENTRY 0x001b
#define SEV_RET_INVALID_PAGE_OWNER 0x001c
#define SEV_RET_AEAD_OFLOW 0x001d
#define SEV_RET_EXIT_RING_BUFFER 0x001f
#define SEV_RET_RMP_INIT_REQUIRED 0x0020
#define SEV_RET_BAD_SVN 0x0021
#define SEV_RET_BAD_VERSION 0x0022
#define SEV_RET_SHUTDOWN_REQUIRED 0x0023
#define SEV_RET_UPDATE_FAILED 0x0024
#define SEV_RET_RESTORE_REQUIRED 0x0025
#define SEV_RET_RMP_INITIALIZATION_FAILED 0x0026
#define SEV_RET_INVALID_KEY 0x0027
#define SEV_RET_SHUTDOWN_INCOMPLETE 0x0028
#define SEV_RET_INCORRECT_BUFFER_LENGTH 0x0030
#define SEV_RET_EXPAND_BUFFER_LENGTH_REQUEST 0x0031
#define SEV_RET_SPDM_REQUEST 0x0032
#define SEV_RET_SPDM_ERROR 0x0033
#define SEV_RET_SEV_STATUS_ERR_IN_DEV_CONN 0x0035
#define SEV_RET_SEV_STATUS_INVALID_DEV_CTX 0x0036
#define SEV_RET_SEV_STATUS_INVALID_TDI_CTX 0x0037
#define SEV_RET_SEV_STATUS_INVALID_TDI 0x0038
#define SEV_RET_SEV_STATUS_RECLAIM_REQUIRED 0x0039
#define SEV_RET_IN_USE 0x003a
#define SEV_RET_SEV_STATUS_INVALID_DEV_STATE 0x003b
#define SEV_RET_SEV_STATUS_INVALID_TDI_STATE 0x003c
#define SEV_RET_SEV_STATUS_DEV_CERT_CHANGED 0x003d
#define SEV_RET_SEV_STATUS_RESYNC_REQ 0x003e
#define SEV_RET_SEV_STATUS_RESPONSE_TOO_LARGE 0x003f

struct kvmh_sev_user_data_snp_status {
	__u8 api_major;
	__u8 api_minor;
	__u8 state;
	__u8 is_rmp_initialized:1;
	__u8 rsvd:7;
	__u32 build_id;
	__u32 mask_chip_id:1;
	__u32 mask_chip_key:1;
	__u32 vlek_en:1;
	__u32 feature_info:1;
	__u32 rapl_dis:1;
	__u32 ciphertext_hiding_cap:1;
	__u32 ciphertext_hiding_en:1;
	__u32 rsvd1:25;
	__u32 guest_count;
	__u64 current_tcb_version;
	__u64 reported_tcb_version;
} __attribute__((packed));
#define sev_user_data_snp_status kvmh_sev_user_data_snp_status

struct kvmh_sev_user_data_snp_config {
	__u64 reported_tcb;
	__u32 mask_chip_id:1;
	__u32 mask_chip_key:1;
	__u32 rsvd:30;
	__u8 rsvd1[52];
} __attribute__((packed));
#define sev_user_data_snp_config kvmh_sev_user_data_snp_config

struct kvmh_sev_user_data_snp_vlek_load {
	__u32 len;
	__u8 vlek_wrapped_version;
	__u8 rsvd[3];
	__u64 vlek_wrapped_address;
} __attribute__((packed));
#define sev_user_data_snp_vlek_load kvmh_sev_user_data_snp_vlek_load

struct kvmh_sev_user_data_snp_wrapped_vlek_hashstick {
	__u8 data[432];
} __attribute__((packed));
#define sev_user_data_snp_wrapped_vlek_hashstick kvmh_sev_user_data_snp_wrapped_vlek_hashstick
#endif

/* Names for four members of struct kvm_run: kvm.h says why. */
typedef __typeof__(((struct kvm_run *)0)->hypercall) kvmh_run_hypercall;
typedef __typeof__(((struct kvm_run *)0)->emulation_failure) kvmh_run_emulation_failure;
typedef __typeof__(((struct kvm_run *)0)->system_event) kvmh_run_system_event;
typedef __typeof__(((struct kvm_run *)0)->tdx) kvmh_run_tdx;

/* Queued for 7.4: see next.h. */
#ifndef KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES
#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES 252
#endif
#ifndef KVM_SET_MEMORY_ATTRIBUTES2
struct kvmh_kvm_memory_attributes2 {
	union {
		__u64 address;
		__u64 offset;
	};
	__u64 size;
	__u64 attributes;
	__u64 flags;
	__u64 error_offset;
	__u64 reserved[11];
};
#define kvm_memory_attributes2 kvmh_kvm_memory_attributes2
#define KVM_SET_MEMORY_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#endif

#endif /* KVMH_COMPAT_H */
