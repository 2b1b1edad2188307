/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A software TDX module: who owns which page, the secure EPT, MRTD, and the checks before each.
 *
 * Sources: "Intel TDX Module Base Architecture Specification" (348549), named Base, and "Intel TDX
 * Module ABI Specification" (348551), named ABI; the order of the checks is that of the module's
 * published source (intel/tdx-module, branch tdx_1.5). Registers go in and out as ABI has them for
 * each leaf.
 *
 * Left out: everything that needs a running guest, 2 MiB and 1 GiB pages, migration, service TDs,
 * and contention: the module's locks are try-locks, so that a real one answers OPERAND_BUSY where
 * two processors meet. Here one lock is waited for, and OPERAND_BUSY comes by injection alone.
 *
 * All functions but tdx_module_call(), tdx_module_show() and tdx_module_info() are called with
 * module_lock held, and none sleeps.
 */
#ifndef TDX_MODULE_H
#define TDX_MODULE_H

#include <crypto/sha2.h>
#include <linux/bitmap.h>
#include <linux/xarray.h>
#include "tdx_standin.h"

/* ---------------------------------------------------------------- status codes */

/*
 * ABI, "Interface Function Completion Status": bits 63:32 class and name, 31:0 the operand's ID.
 * Those that <asm/shared/tdx_errno.h> has are not repeated.
 */
#define TDX_TD_ASSOCIATED_PAGES_EXIST	0xC000040000000000ULL
#define TDX_TDCS_NOT_ALLOCATED		0xC000060600000000ULL
#define TDX_LIFECYCLE_STATE_INCORRECT	0xC000060700000000ULL
#define TDX_OP_STATE_INCORRECT		0xC000060800000000ULL
#define TDX_NO_VCPUS			0xC000060900000000ULL
#define TDX_TDCX_NUM_INCORRECT		0xC000061000000000ULL
#define TDX_VCPU_STATE_INCORRECT	0xC000070000000000ULL
#define TDX_VCPU_ASSOCIATED		0x8000070100000000ULL
#define TDX_MAX_VCPUS_EXCEEDED		0xC000070500000000ULL
#define TDX_TD_KEYS_NOT_CONFIGURED	0x8000081000000000ULL
#define TDX_WBCACHE_NOT_COMPLETE	0x8000081700000000ULL
#define TDX_HKID_NOT_FREE		0xC000082000000000ULL
#define TDX_EPT_ENTRY_NOT_PRESENT	0xC0000B0300000000ULL
#define TDX_GPA_RANGE_NOT_BLOCKED	0xC0000B0600000000ULL
#define TDX_GPA_RANGE_ALREADY_BLOCKED	0x00000B0700000000ULL
#define TDX_TLB_TRACKING_NOT_DONE	0xC0000B0800000000ULL

/* ABI, "Operand ID". */
enum {
	OPERAND_RAX = 0, OPERAND_RCX = 1, OPERAND_RDX = 2, OPERAND_R8 = 8, OPERAND_R9 = 9,
	OPERAND_ATTRIBUTES = 64, OPERAND_XFAM = 65, OPERAND_EXEC_CONTROLS = 66,
	OPERAND_EPTP_CONTROLS = 67, OPERAND_MAX_VCPUS = 68, OPERAND_CPUID_CONFIG = 69,
	OPERAND_TSC_FREQUENCY = 70,
};

/* ---------------------------------------------------------------- objects */

/* ABI, "Physical Page Types" (PAMT.PT). */
enum page_type { PT_NDA = 0, PT_REG = 3, PT_TDR = 4, PT_TDCX = 5, PT_TDVPR = 6, PT_EPT = 8 };

/* Base, "TD Life Cycle State Machine" and "TD Operation State Machine". */
enum life_cycle { TD_HKID_ASSIGNED, TD_KEYS_CONFIGURED, TD_BLOCKED, TD_TEARDOWN };
enum op_state { OP_UNINITIALIZED, OP_INITIALIZED, OP_RUNNABLE };

/* Base, "Secure EPT Entry State Diagram". */
enum sept_state { SEPT_FREE, SEPT_BLOCKED, SEPT_PENDING, SEPT_PENDING_BLOCKED, SEPT_MAPPED };

/* A page that the module owns: what Base calls its PAMT entry. No entry is PT_NDA. */
struct page_entry {
	enum page_type type;
	struct td *td;
	u64 blocked_epoch;
};

struct sept_leaf {
	enum sept_state state;
	u64 page;
};

/* ABI, "TD_PARAMS". */
struct td_params {
	u64 attributes;
	u64 xfam;
	u16 max_vcpus;
	u8 reserved0[6];
	u64 eptp_controls;
	u64 exec_controls;
	u16 tsc_frequency; /* in 25 MHz */
	u8 reserved1[38];
	u64 mrconfigid[6], mrowner[6], mrownerconfig[6];
	u64 reserved2[4];
	u32 cpuid[48][4];
} __packed;

struct td {
	u64 tdr; /* physical address, its handle */
	u16 hkid;
	enum life_cycle life;
	enum op_state op;
	bool caches_written_back;
	unsigned int tdcx_pages, children, vcpus, associated;
	u64 epoch;
	struct td_params params;
	struct xarray tables; /* table_key() -> the page of the table below that entry */
	struct xarray leaves; /* gpa >> 12 -> struct sept_leaf */
	struct sha384_ctx mrtd;
	u64 added, extended, augmented;
};

struct vcpu_field {
	u64 id, value;
};

struct vcpu {
	struct td *td;
	unsigned int tdcx_pages, number, fields;
	bool initialized;
	int processor; /* the logical processor it is associated with, or -1 */
	struct vcpu_field field[16];
};

/* ---------------------------------------------------------------- module.c: state, and the leaves */

extern spinlock_t module_lock;
extern u64 seamcalls;

/* ---------------------------------------------------------------- sys_info.c: what it can do */

#define TDCS_PAGES 6
#define TDVPS_PAGES 6
#define ATTRIBUTES_ALLOWED (BIT_ULL(0) | BIT_ULL(28) | BIT_ULL(30) | BIT_ULL(63))
#define XFAM_ALLOWED 0x6dbe7ULL
#define XFAM_REQUIRED 3ULL
#define CPUID_CONFIGS 7

u32 cpuid_config_allowed(int config, int reg);

/* ---------------------------------------------------------------- pages.c: physical pages */

extern unsigned int owned[PT_EPT + 1];

/* What the kernel owes to a page that it got back, and above it the key that its lines have. */
#define OWES_FLUSH BIT(0)
#define OWES_RESET BIT(1)
#define OWES_HKID_SHIFT 2
extern unsigned int unflushed, unreset;
void paid(u64 page, unsigned long what);

bool is_page(u64 address);
struct page_entry *entry_of(u64 address);
enum page_type type_of(u64 address);
u64 take_page(u64 address, enum page_type type, struct td *td, int operand);
void give_page(u64 address);
void remove_page(u64 address);
void forget_pages(void);
bool is_leaked(const struct page_entry *entry);
u64 phymem_page_wbinvd(u64 page, u64 hkid);

/* ---------------------------------------------------------------- td.c: from creation to the end */

extern struct xarray tds; /* pfn of the TDR -> struct td */
extern unsigned long hkids[BITS_TO_LONGS(FIRST_KEYID + KEYIDS)];

struct td *td_of(u64 tdr);
u64 td_in_state(struct td *td, int operand, enum op_state lowest, enum op_state highest);
void forget_tds(void);
u64 mng_create(u64 tdr, u64 hkid);
u64 mng_key_config(struct td *td);
u64 mng_addcx(u64 page, struct td *td);
u64 mng_init(struct td *td, u64 params, u64 *hint);
u64 mng_vpflushdone(struct td *td);
u64 mng_key_freeid(struct td *td);
u64 phymem_cache_wb(void);
u64 phymem_page_reclaim(struct tdx_module_args *regs);

/* ---------------------------------------------------------------- metadata.c: a TD's fields */

u64 mng_rd(struct td *td, u64 field, u64 *value);

/* ---------------------------------------------------------------- vcpu.c */

struct vcpu *vcpu_of(u64 tdvpr);
void forget_vcpu(u64 tdvpr);
void forget_vcpus(void);
u64 vp_create(u64 tdvpr, struct td *td);
u64 vp_addcx(u64 page, struct vcpu *vcpu);
u64 vp_init(struct vcpu *vcpu, u64 rcx, u32 x2apicid);
u64 vp_rd_wr(struct vcpu *vcpu, struct tdx_module_args *regs, bool write);
u64 vp_flush(struct vcpu *vcpu);

/* ---------------------------------------------------------------- sept.c: the secure EPT */

bool is_private(struct td *td, u64 gpa);
u64 sept_error(struct tdx_module_args *regs, u64 status, int level, enum sept_state state);
u64 mem_sept_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs);
u64 mem_page_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs);
u64 mem_page_aug(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs);
u64 mem_range_block(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs);
u64 mem_track(struct td *td);
u64 mem_page_remove(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs);

/* ---------------------------------------------------------------- mrtd.c: the measurement */

/* The TD whose measurement changed last, kept after its end for whoever asks. */
struct measured {
	struct sha384_ctx mrtd;
	u64 added, extended, augmented;
	bool finalized, any;
};
extern struct measured last_measured;

void remember(struct td *td);
void measure_added_page(struct td *td, u64 gpa);
u64 mr_extend(struct td *td, u64 gpa, struct tdx_module_args *regs);
u64 mr_finalize(struct td *td);

/* ---------------------------------------------------------------- record.c: what KVM gave */

void record_init(struct td *td);
void record_vcpu(struct td *td, u64 rcx, u32 x2apicid);
void record_fields(struct vcpu *vcpu);
void record_page(struct td *td, u64 gpa, const void *contents);
void record_extend(struct td *td, u64 gpa);

/* ---------------------------------------------------------------- inject.c: failures on purpose */

bool injected(u32 leaf, u64 *status);
unsigned int injections_struck(void);

/* ---------------------------------------------------------------- crypt.c: a TD's key */

void crypt(struct td *td, u64 *to, u64 address, const u64 *from, size_t size);

#endif
