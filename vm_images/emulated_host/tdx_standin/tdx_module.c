// SPDX-License-Identifier: GPL-2.0
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
 */
#include <crypto/sha2.h>
#include <linux/bitmap.h>
#include <linux/io.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/xarray.h>
#include <asm/cpuid/api.h>
#include <asm/page.h>
#include "tdx_standin.h"

/*
 * Make a leaf fail: calls of inject_leaf return inject_status without doing anything, after
 * inject_after of them and inject_times times. -1 is no leaf.
 */
static int inject_leaf = -1;
static unsigned int inject_after;
static unsigned int inject_times = 1;
static unsigned long inject_status;
module_param(inject_leaf, int, 0644);
module_param(inject_after, uint, 0644);
module_param(inject_times, uint, 0644);
module_param(inject_status, ulong, 0644);

/*
 * Planted mistake, for tests of the leak check: this many removed pages stay owned by the module.
 * Writing 0 gives up those that did.
 */
static unsigned int leak;
static int set_leak(const char *value, const struct kernel_param *param);
static const struct kernel_param_ops leak_ops = { .set = set_leak, .get = param_get_uint };
module_param_cb(leak, &leak_ops, &leak, 0644);

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
	unsigned int tdcx_pages, fields;
	bool initialized;
	int processor; /* the logical processor it is associated with, or -1 */
	struct vcpu_field field[16];
};

static DEFINE_SPINLOCK(module_lock);
static DEFINE_XARRAY(pages); /* pfn -> struct page_entry */
static DEFINE_XARRAY(tds); /* pfn of the TDR -> struct td */
static DEFINE_XARRAY(vcpus); /* pfn of the TDVPR -> struct vcpu */
static DECLARE_BITMAP(hkids, FIRST_KEYID + KEYIDS);
static unsigned int owned[PT_EPT + 1];
static u64 calls;

/* The TD whose measurement changed last, kept after its end for whoever asks. */
static struct {
	struct sha384_ctx mrtd;
	u64 added, extended, augmented;
	bool finalized, any;
} last;

static void remember(struct td *td)
{
	last.mrtd = td->mrtd;
	last.added = td->added;
	last.extended = td->extended;
	last.augmented = td->augmented;
	last.finalized = td->op == OP_RUNNABLE;
	last.any = true;
}

/* ---------------------------------------------------------------- what the module says of itself */

#define TDCS_PAGES 6
#define TDVPS_PAGES 6
#define ATTRIBUTES_ALLOWED (BIT_ULL(0) | BIT_ULL(28) | BIT_ULL(30) | BIT_ULL(63))
#define XFAM_ALLOWED 0x6dbe7ULL
#define XFAM_REQUIRED 3ULL
#define CPUID_CONFIGS 7

/*
 * CPUID leaves that a TD's creator configures, and the bits (ABI, "CPUID Virtualization"): a few of
 * those a real module has, among them the ones KVM's users need.
 */
static struct tdx_sys_info info = {
	.version = { .major_version = 1, .minor_version = 5, .update_version = 0 },
	.features.tdx_features0 = TDX_FEATURES0_NO_RBP_MOD | BIT_ULL(20), /* TOPOLOGY_ENUM */
	.td_ctrl = {
		.tdr_base_size = PAGE_SIZE,
		.tdcs_base_size = TDCS_PAGES * PAGE_SIZE,
		.tdvps_base_size = TDVPS_PAGES * PAGE_SIZE,
	},
	.td_conf = {
		.attributes_fixed0 = ATTRIBUTES_ALLOWED,
		.xfam_fixed0 = XFAM_ALLOWED,
		.xfam_fixed1 = XFAM_REQUIRED,
		.max_vcpus_per_td = 576,
		.num_cpuid_config = CPUID_CONFIGS,
		.cpuid_config_leaves = { /* leaf | subleaf << 32, all ones: no subleaf */
			0xffffffff00000001, 0x0000000000000007, 0x0000000100000007,
			0x000000000000001f, 0x000000010000001f, 0xffffffff80000001,
			0xffffffff80000008,
		},
		.cpuid_config_values = { /* EAX | EBX << 32, ECX | EDX << 32 */
			{ 0x00ff000008ff3fff & ~0U, 0x0000000084000000 },
			{ 0xffffffff00000000, 0xffffffffffffffff },
			{ 0x00000000ffffffff, 0 },
			{ 0xffffffffffffffff, 0xffffffffffffffff },
			{ 0xffffffffffffffff, 0xffffffffffffffff },
			{ 0, 0xffffffffffffffff },
			{ 0xff0000ff, 0xff },
		},
	},
};

const struct tdx_sys_info *tdx_module_info(void)
{
	return &info;
}

static u32 cpuid_config_allowed(int config, int reg)
{
	if (config >= CPUID_CONFIGS)
		return 0;
	return info.td_conf.cpuid_config_values[config][reg / 2] >> (32 * (reg & 1));
}

/* ---------------------------------------------------------------- physical pages */

static struct page_entry *entry_of(u64 address)
{
	return xa_load(&pages, address >> PAGE_SHIFT);
}

static enum page_type type_of(u64 address)
{
	struct page_entry *entry = entry_of(address);

	return entry ? entry->type : PT_NDA;
}

static bool is_page(u64 address)
{
	return PAGE_ALIGNED(address) && pfn_valid(address >> PAGE_SHIFT);
}

/* The page must be nobody's (PT_NDA); it becomes `type` and `td`'s. */
static u64 take_page(u64 address, enum page_type type, struct td *td, int operand)
{
	struct page_entry *entry;

	if (!is_page(address))
		return TDX_OPERAND_INVALID | operand;
	if (type_of(address) != PT_NDA)
		return TDX_PAGE_METADATA_INCORRECT | operand;
	entry = kzalloc(sizeof(*entry), GFP_ATOMIC);
	if (!entry || xa_is_err(xa_store(&pages, address >> PAGE_SHIFT, entry, GFP_ATOMIC))) {
		kfree(entry);
		return TDX_SYS_BUSY; /* out of memory here, never there */
	}
	entry->type = type;
	entry->td = td;
	owned[type]++;
	if (td)
		td->children++;
	return TDX_SUCCESS;
}

static void give_page(u64 address)
{
	struct page_entry *entry = xa_erase(&pages, address >> PAGE_SHIFT);

	owned[entry->type]--;
	if (entry->td)
		entry->td->children--;
	kfree(entry);
}

/* The planted mistake: the page stays the module's, though no TD knows of it. */
static void leak_page(u64 address)
{
	struct page_entry *entry = entry_of(address);

	entry->td->children--;
	entry->td = NULL;
	leak--;
}

static bool is_leaked(const struct page_entry *entry)
{
	return entry && entry->type != PT_TDR && !entry->td;
}

/*
 * A private page is encrypted with the TD's key: what the host finds in it is not what was put in.
 * One word of key stream for each word, different for every page and key.
 */
static u64 key_stream(struct td *td, u64 address)
{
	return (address / sizeof(u64) + 1) * 0x9e3779b97f4a7c15ULL + td->hkid;
}

static void crypt(struct td *td, u64 *to, u64 address, const u64 *from, size_t size)
{
	size_t i;

	for (i = 0; i < size / sizeof(u64); i++)
		to[i] = from[i] ^ key_stream(td, address + i * sizeof(u64));
}

/* ---------------------------------------------------------------- TDs */

static struct td *td_of(u64 tdr)
{
	return type_of(tdr) == PT_TDR ? xa_load(&tds, tdr >> PAGE_SHIFT) : NULL;
}

/* What nearly every leaf asks first: a TD, its keys, its control structure, its operation state. */
static u64 td_in_state(struct td *td, int operand, enum op_state lowest, enum op_state highest)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | operand;
	if (td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (td->tdcx_pages < TDCS_PAGES)
		return TDX_TDCS_NOT_ALLOCATED;
	if (td->op < lowest || td->op > highest)
		return TDX_OP_STATE_INCORRECT;
	return TDX_SUCCESS;
}

static u64 mng_create(u64 tdr, u64 hkid)
{
	struct td *td;
	u64 status;

	if (hkid < FIRST_KEYID || hkid >= FIRST_KEYID + KEYIDS)
		return TDX_OPERAND_INVALID | OPERAND_RDX;
	if (type_of(tdr) != PT_NDA)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (test_bit(hkid, hkids))
		return TDX_HKID_NOT_FREE;
	td = kzalloc(sizeof(*td), GFP_ATOMIC);
	if (!td || xa_is_err(xa_store(&tds, tdr >> PAGE_SHIFT, td, GFP_ATOMIC))) {
		kfree(td);
		return TDX_SYS_BUSY;
	}
	status = take_page(tdr, PT_TDR, NULL, OPERAND_RCX);
	if (status) {
		xa_erase(&tds, tdr >> PAGE_SHIFT);
		kfree(td);
		return status;
	}
	td->tdr = tdr;
	td->hkid = hkid;
	td->life = TD_HKID_ASSIGNED;
	xa_init(&td->tables);
	xa_init(&td->leaves);
	set_bit(hkid, hkids);
	return TDX_SUCCESS;
}

static u64 mng_key_config(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life == TD_KEYS_CONFIGURED)
		return TDX_KEY_CONFIGURED;
	if (td->life != TD_HKID_ASSIGNED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	td->life = TD_KEYS_CONFIGURED;
	return TDX_SUCCESS;
}

static u64 mng_addcx(u64 page, struct td *td)
{
	u64 status;

	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RDX;
	if (td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (td->tdcx_pages >= TDCS_PAGES)
		return TDX_TDCX_NUM_INCORRECT;
	status = take_page(page, PT_TDCX, td, OPERAND_RCX);
	if (!status)
		td->tdcx_pages++;
	return status;
}

/* ABI, "TDH.MNG.INIT"; XFAM rules: Base, "Extended Features Set Enumeration and Execution Control". */
static u64 check_params(const struct td_params *params, u64 *hint)
{
	bool max_gpaw = params->exec_controls & BIT_ULL(0);
	u64 avx512 = params->xfam & GENMASK_ULL(7, 5);
	int config, reg;

	if (params->attributes & ~ATTRIBUTES_ALLOWED)
		return TDX_OPERAND_INVALID | OPERAND_ATTRIBUTES;
	if ((params->xfam & XFAM_REQUIRED) != XFAM_REQUIRED || params->xfam & ~XFAM_ALLOWED ||
	    (avx512 && avx512 != GENMASK_ULL(7, 5)))
		return TDX_OPERAND_INVALID | OPERAND_XFAM;
	if (!params->max_vcpus)
		return TDX_OPERAND_INVALID | OPERAND_MAX_VCPUS;
	if (params->exec_controls & ~(BIT_ULL(0) | BIT_ULL(2))) /* GPAW, NO_RBP_MOD */
		return TDX_OPERAND_INVALID | OPERAND_EXEC_CONTROLS;
	/* Write-back, and a page walk of 5 levels where guest addresses have 52 bits, else of 4. */
	if (params->eptp_controls != (max_gpaw ? 0x26 : 0x1e))
		return TDX_OPERAND_INVALID | OPERAND_EPTP_CONTROLS;
	if (params->tsc_frequency < 4 || params->tsc_frequency > 400) /* 100 MHz to 10 GHz */
		return TDX_OPERAND_INVALID | OPERAND_TSC_FREQUENCY;
	for (config = 0; config < ARRAY_SIZE(params->cpuid); config++)
		for (reg = 0; reg < 4; reg++)
			if (params->cpuid[config][reg] & ~cpuid_config_allowed(config, reg)) {
				*hint = config < CPUID_CONFIGS ?
					info.td_conf.cpuid_config_leaves[config] : ~0ULL;
				return TDX_OPERAND_INVALID | OPERAND_CPUID_CONFIG;
			}
	return TDX_SUCCESS;
}

static u64 mng_init(struct td *td, u64 params, u64 *hint)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_UNINITIALIZED, OP_UNINITIALIZED);

	BUILD_BUG_ON(sizeof(struct td_params) != 1024);
	*hint = 0;
	if (status)
		return status;
	if (!IS_ALIGNED(params, 1024) || type_of(params & PAGE_MASK) != PT_NDA)
		return TDX_OPERAND_INVALID | OPERAND_RDX;
	status = check_params(__va(params), hint);
	if (status)
		return status;
	td->params = *(struct td_params *)__va(params);
	sha384_init(&td->mrtd);
	td->op = OP_INITIALIZED;
	remember(td);
	return TDX_SUCCESS;
}

/* ABI, "TD Metadata": field IDs of the execution controls, and of the virtual CPUID's values. */
#define FIELD_TSC_OFFSET 0x110000000000000aULL
#define FIELD_TSC_MULTIPLIER 0x110000000000000bULL
#define FIELD_CPUID_VALUES 0x94100003U /* bits 63:32 */

/* Bit 16 leaf 31, 15:9 leaf 6:0, 8 no subleaf, 7:1 subleaf, 0 which half of the four registers. */
static u64 read_cpuid_values(struct td *td, u64 field, u64 *value)
{
	u32 leaf = (field >> 9 & 0x7f) | (field >> 16 & 1) << 31;
	u32 subleaf = field >> 1 & 0x7f;
	bool no_subleaf = field & BIT_ULL(8);
	bool has_subleaves = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f;
	u32 reg[4] = { leaf, 0, no_subleaf ? 0 : subleaf, 0 };
	int i, j;

	if (no_subleaf == has_subleaves || (has_subleaves && subleaf > 3))
		return TDX_METADATA_FIELD_NOT_READABLE;
	native_cpuid(&reg[0], &reg[1], &reg[2], &reg[3]);
	if (leaf == 0)
		reg[0] = 0x1f;
	else if (leaf == 0x80000000)
		reg[0] = 0x80000008;
	for (i = 0; i < CPUID_CONFIGS; i++) {
		u64 config = info.td_conf.cpuid_config_leaves[i];

		if ((u32)config != leaf || (!no_subleaf && config >> 32 != subleaf))
			continue;
		for (j = 0; j < 4; j++)
			reg[j] = (reg[j] & ~cpuid_config_allowed(i, j)) | td->params.cpuid[i][j];
	}
	if (leaf == 1)
		reg[2] |= BIT(21); /* a TD always has x2APIC */
	i = field & 1 ? 2 : 0;
	*value = reg[i] | (u64)reg[i + 1] << 32;
	return TDX_SUCCESS;
}

static u64 mng_rd(struct td *td, u64 field, u64 *value)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_INITIALIZED, OP_RUNNABLE);

	*value = 0;
	if (status)
		return status;
	if (field == FIELD_TSC_OFFSET)
		return TDX_SUCCESS;
	if (field == FIELD_TSC_MULTIPLIER) {
		*value = 1ULL << 48; /* a ratio of 1: 48 bits of fraction */
		return TDX_SUCCESS;
	}
	if (field >> 32 == FIELD_CPUID_VALUES)
		return read_cpuid_values(td, field, value);
	return TDX_METADATA_FIELD_NOT_READABLE;
}

/* ---------------------------------------------------------------- the end of a TD */

static u64 mng_vpflushdone(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life != TD_HKID_ASSIGNED && td->life != TD_KEYS_CONFIGURED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (td->associated)
		return TDX_FLUSHVP_NOT_DONE;
	td->life = TD_BLOCKED;
	return TDX_SUCCESS;
}

static u64 phymem_cache_wb(void)
{
	unsigned long index;
	bool any = false;
	struct td *td;

	xa_for_each(&tds, index, td) {
		if (td->life == TD_BLOCKED && !td->caches_written_back) {
			td->caches_written_back = true;
			any = true;
		}
	}
	return any ? TDX_SUCCESS : TDX_NO_HKID_READY_TO_WBCACHE;
}

static u64 mng_key_freeid(struct td *td)
{
	if (!td)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (td->life != TD_BLOCKED)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (!td->caches_written_back)
		return TDX_WBCACHE_NOT_COMPLETE;
	td->life = TD_TEARDOWN;
	clear_bit(td->hkid, hkids);
	return TDX_SUCCESS;
}

static u64 phymem_page_reclaim(struct tdx_module_args *regs)
{
	u64 address = regs->rcx;
	struct page_entry *entry;
	struct sept_leaf *leaf;
	unsigned long index;
	struct td *td;

	regs->rcx = regs->rdx = regs->r8 = 0;
	if (!is_page(address))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	entry = entry_of(address);
	if (!entry || is_leaked(entry))
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	td = entry->type == PT_TDR ? td_of(address) : entry->td;
	regs->rcx = entry->type;
	regs->rdx = entry->type == PT_TDR ? 0 : td->tdr;
	if (td->life != TD_TEARDOWN)
		return TDX_LIFECYCLE_STATE_INCORRECT;
	if (entry->type == PT_TDR) {
		if (td->children)
			return TDX_TD_ASSOCIATED_PAGES_EXIST;
		xa_for_each(&td->leaves, index, leaf)
			kfree(leaf);
		xa_destroy(&td->leaves);
		xa_destroy(&td->tables);
		xa_erase(&tds, address >> PAGE_SHIFT);
		kfree(td);
	} else if (entry->type == PT_TDVPR) {
		kfree(xa_erase(&vcpus, address >> PAGE_SHIFT));
	}
	give_page(address);
	return TDX_SUCCESS;
}

/* ---------------------------------------------------------------- vCPUs */

static struct vcpu *vcpu_of(u64 tdvpr)
{
	return type_of(tdvpr) == PT_TDVPR ? xa_load(&vcpus, tdvpr >> PAGE_SHIFT) : NULL;
}

static u64 vp_create(u64 tdvpr, struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);
	struct vcpu *vcpu;

	if (status)
		return status;
	vcpu = kzalloc(sizeof(*vcpu), GFP_ATOMIC);
	if (!vcpu || xa_is_err(xa_store(&vcpus, tdvpr >> PAGE_SHIFT, vcpu, GFP_ATOMIC))) {
		kfree(vcpu);
		return TDX_SYS_BUSY;
	}
	status = take_page(tdvpr, PT_TDVPR, td, OPERAND_RCX);
	if (status) {
		xa_erase(&vcpus, tdvpr >> PAGE_SHIFT);
		kfree(vcpu);
		return status;
	}
	vcpu->td = td;
	vcpu->processor = -1;
	return TDX_SUCCESS;
}

static u64 vp_addcx(u64 page, struct vcpu *vcpu)
{
	u64 status;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RDX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_INITIALIZED);
	if (status)
		return status;
	if (vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	if (vcpu->tdcx_pages >= TDVPS_PAGES - 1)
		return TDX_TDCX_NUM_INCORRECT;
	status = take_page(page, PT_TDCX, vcpu->td, OPERAND_RCX);
	if (!status)
		vcpu->tdcx_pages++;
	return status;
}

/* Base, "VCPU-to-LP Association": a vCPU belongs to the processor that touched it until flushed. */
static u64 associate(struct vcpu *vcpu)
{
	if (vcpu->processor < 0) {
		vcpu->processor = raw_smp_processor_id();
		vcpu->td->associated++;
	}
	if (vcpu->processor != raw_smp_processor_id())
		return TDX_VCPU_ASSOCIATED;
	return TDX_SUCCESS;
}

static u64 vp_init(struct vcpu *vcpu)
{
	u64 status;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_INITIALIZED);
	if (status)
		return status;
	if (vcpu->tdcx_pages != TDVPS_PAGES - 1)
		return TDX_TDCX_NUM_INCORRECT;
	if (vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	if (vcpu->td->vcpus >= vcpu->td->params.max_vcpus)
		return TDX_MAX_VCPUS_EXCEEDED;
	vcpu->td->vcpus++;
	vcpu->initialized = true;
	return associate(vcpu);
}

/* Fields keep what is written; one never written reads as 0. Which fields exist is not modelled. */
static u64 vp_rd_wr(struct vcpu *vcpu, struct tdx_module_args *regs, bool write)
{
	struct vcpu_field *field = NULL;
	u64 before, status;
	unsigned int i;

	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	status = td_in_state(vcpu->td, TDX_OPERAND_ID_TDR, OP_INITIALIZED, OP_RUNNABLE);
	if (status)
		return status;
	if (!vcpu->initialized)
		return TDX_VCPU_STATE_INCORRECT;
	status = associate(vcpu);
	if (status)
		return status;
	for (i = 0; i < vcpu->fields; i++)
		if (vcpu->field[i].id == regs->rdx)
			field = &vcpu->field[i];
	before = field ? field->value : 0;
	if (write && !field) {
		if (vcpu->fields == ARRAY_SIZE(vcpu->field))
			return TDX_SYS_BUSY;
		field = &vcpu->field[vcpu->fields++];
		field->id = regs->rdx;
	}
	if (write)
		field->value = (before & ~regs->r9) | (regs->r8 & regs->r9);
	regs->r8 = before;
	return TDX_SUCCESS;
}

static u64 vp_flush(struct vcpu *vcpu)
{
	if (!vcpu)
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	if (vcpu->td->life != TD_KEYS_CONFIGURED)
		return TDX_TD_KEYS_NOT_CONFIGURED;
	if (vcpu->processor < 0)
		return TDX_VCPU_NOT_ASSOCIATED;
	if (vcpu->processor != raw_smp_processor_id())
		return TDX_VCPU_ASSOCIATED;
	vcpu->processor = -1;
	vcpu->td->associated--;
	return TDX_SUCCESS;
}

/* ---------------------------------------------------------------- secure EPT */

/* ABI, "EPT Level and GPA": RCX has the address in bits 51:12 and the level in 2:0. */
static int level_of(u64 gpa_and_level)
{
	return gpa_and_level & 7;
}

static u64 level_span(int level)
{
	return PAGE_SIZE << (9 * level);
}

/* An entry of level 1 and above, by what it maps. */
static unsigned long table_key(u64 gpa, int level)
{
	return (gpa & ~(level_span(level) - 1)) >> PAGE_SHIFT | (unsigned long)level << 56;
}

static bool five_levels(struct td *td)
{
	return td->params.exec_controls & BIT_ULL(0);
}

/* Base, "Guest Physical Address Translation": the bit below the width says shared. */
static bool is_private(struct td *td, u64 gpa)
{
	return !(gpa >> (five_levels(td) ? 51 : 47));
}

/* Whether the walk for `gpa` reaches the entry of `level`: its table is there. The root always is. */
static bool walk_reaches(struct td *td, u64 gpa, int level)
{
	int root = five_levels(td) ? 4 : 3;

	return level == root || xa_load(&td->tables, table_key(gpa, level + 1));
}

/* ABI, "Secure EPT Entry Information": RDX has level and state. The entry itself, RCX, stays 0. */
static u64 sept_error(struct tdx_module_args *regs, u64 status, int level, enum sept_state state)
{
	regs->rcx = 0;
	regs->rdx = level | state << 8;
	return status;
}

static u64 mem_sept_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8;
	int level = level_of(gpa_and_level);
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);

	if (status)
		return status;
	if (level < 1 || level > (five_levels(td) ? 4 : 3) || !IS_ALIGNED(gpa, level_span(level)) ||
	    !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, level))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, level + 1, SEPT_FREE);
	if (xa_load(&td->tables, table_key(gpa, level)))
		return sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, level,
				  SEPT_MAPPED);
	status = take_page(page, PT_EPT, td, OPERAND_R8);
	if (status)
		return status;
	if (xa_is_err(xa_store(&td->tables, table_key(gpa, level),
			       xa_mk_value(page >> PAGE_SHIFT), GFP_ATOMIC))) {
		give_page(page);
		return TDX_SYS_BUSY;
	}
	return TDX_SUCCESS;
}

/* The part that adding a page has in common before and after the TD runs. */
static u64 map_leaf(struct td *td, u64 gpa, u64 page, enum sept_state state)
{
	struct sept_leaf *leaf;
	u64 status = take_page(page, PT_REG, td, OPERAND_R8);

	if (status)
		return status;
	leaf = kzalloc(sizeof(*leaf), GFP_ATOMIC);
	if (!leaf || xa_is_err(xa_store(&td->leaves, gpa >> PAGE_SHIFT, leaf, GFP_ATOMIC))) {
		kfree(leaf);
		give_page(page);
		return TDX_SYS_BUSY;
	}
	leaf->state = state;
	leaf->page = page;
	return TDX_SUCCESS;
}

static u64 leaf_is_free(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK;
	struct sept_leaf *leaf;

	if (level_of(gpa_and_level) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, 0))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, 1, SEPT_FREE);
	leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	if (leaf)
		return sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, 0,
				  leaf->state);
	return TDX_SUCCESS;
}

/*
 * Base, "TD Measurement (MRTD)": each page adds 128 bytes, "MEM.PAGE.ADD" and the address at 16;
 * each measured chunk of 256 bytes adds 128 more, "MR.EXTEND" and its address, and the chunk.
 */
static void measure(struct td *td, const char *what, u64 gpa)
{
	u8 record[128] = {};

	memcpy(record, what, strlen(what));
	*(__le64 *)(record + 16) = cpu_to_le64(gpa);
	sha384_update(&td->mrtd, record, sizeof(record));
}

static u64 mem_page_add(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8, source = regs->r9;
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);

	if (!status)
		status = leaf_is_free(td, gpa_and_level, regs);
	if (!status && (!is_page(source) || type_of(source) != PT_NDA))
		status = TDX_OPERAND_INVALID | OPERAND_R9;
	if (!status)
		status = map_leaf(td, gpa, page, SEPT_MAPPED);
	if (status)
		return status;
	crypt(td, __va(page), page, __va(source), PAGE_SIZE);
	measure(td, "MEM.PAGE.ADD", gpa);
	td->added++;
	remember(td);
	return TDX_SUCCESS;
}

static u64 mem_page_aug(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page = regs->r8;
	u64 status = td_in_state(td, OPERAND_RDX, OP_RUNNABLE, OP_RUNNABLE);

	if (!status)
		status = leaf_is_free(td, gpa_and_level, regs);
	if (!status)
		status = map_leaf(td, gpa, page, SEPT_PENDING);
	if (status)
		return status;
	td->augmented++;
	remember(td);
	return TDX_SUCCESS;
}

static u64 mr_extend(struct td *td, u64 gpa, struct tdx_module_args *regs)
{
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_INITIALIZED);
	u64 chunk[256 / sizeof(u64)], address;
	struct sept_leaf *leaf;

	if (status)
		return status;
	if (!IS_ALIGNED(gpa, sizeof(chunk)) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	if (!leaf)
		return sept_error(regs, TDX_EPT_ENTRY_NOT_PRESENT | OPERAND_RCX, 0, SEPT_FREE);
	if (leaf->state != SEPT_MAPPED)
		return TDX_EPT_ENTRY_NOT_PRESENT;
	address = leaf->page + offset_in_page(gpa);
	crypt(td, chunk, address, __va(address), sizeof(chunk));
	measure(td, "MR.EXTEND", gpa);
	sha384_update(&td->mrtd, (u8 *)chunk, sizeof(chunk));
	td->extended++;
	remember(td);
	return TDX_SUCCESS;
}

static u64 mr_finalize(struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_INITIALIZED, OP_INITIALIZED);

	if (status)
		return status;
	if (!td->vcpus)
		return TDX_NO_VCPUS;
	td->op = OP_RUNNABLE;
	remember(td);
	return TDX_SUCCESS;
}

/* Base, "GPA Range Block", "TLB Tracking": a page is blocked, tracked, then removed. */
static u64 mem_range_block(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK;
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);
	struct sept_leaf *leaf;

	if (status)
		return status;
	if (level_of(gpa_and_level) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, 0))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, 1, SEPT_FREE);
	leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	if (!leaf)
		return sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, 0, SEPT_FREE);
	if (leaf->state == SEPT_BLOCKED || leaf->state == SEPT_PENDING_BLOCKED)
		return sept_error(regs, TDX_GPA_RANGE_ALREADY_BLOCKED | OPERAND_RCX, 0,
				  leaf->state);
	leaf->state = leaf->state == SEPT_PENDING ? SEPT_PENDING_BLOCKED : SEPT_BLOCKED;
	entry_of(leaf->page)->blocked_epoch = td->epoch;
	return TDX_SUCCESS;
}

static u64 mem_track(struct td *td)
{
	u64 status = td_in_state(td, OPERAND_RCX, OP_RUNNABLE, OP_RUNNABLE);

	if (!status)
		td->epoch++;
	return status;
}

static u64 mem_page_remove(struct td *td, u64 gpa_and_level, struct tdx_module_args *regs)
{
	u64 gpa = gpa_and_level & PAGE_MASK, page;
	u64 status = td_in_state(td, OPERAND_RDX, OP_INITIALIZED, OP_RUNNABLE);
	struct sept_leaf *leaf;

	if (status)
		return status;
	if (level_of(gpa_and_level) || !is_private(td, gpa))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (!walk_reaches(td, gpa, 0))
		return sept_error(regs, TDX_EPT_WALK_FAILED | OPERAND_RCX, 1, SEPT_FREE);
	leaf = xa_load(&td->leaves, gpa >> PAGE_SHIFT);
	if (!leaf)
		return sept_error(regs, TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX, 0, SEPT_FREE);
	if (td->op == OP_RUNNABLE) {
		if (leaf->state == SEPT_MAPPED || leaf->state == SEPT_PENDING)
			return sept_error(regs, TDX_GPA_RANGE_NOT_BLOCKED | OPERAND_RCX, 0,
					  leaf->state);
		if (entry_of(leaf->page)->blocked_epoch == td->epoch)
			return TDX_TLB_TRACKING_NOT_DONE | OPERAND_RCX;
	}
	page = leaf->page;
	xa_erase(&td->leaves, gpa >> PAGE_SHIFT);
	kfree(leaf);
	if (leak)
		leak_page(page);
	else
		give_page(page);
	regs->rcx = page;
	return TDX_SUCCESS;
}

/* Only pages that the module has given back may be written back for it. */
static u64 phymem_page_wbinvd(u64 page)
{
	if (!is_page(page))
		return TDX_OPERAND_INVALID | OPERAND_RCX;
	if (type_of(page) != PT_NDA && !is_leaked(entry_of(page)))
		return TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX;
	return TDX_SUCCESS;
}

static void forget_leaked(void)
{
	struct page_entry *entry;
	unsigned long index;

	xa_for_each(&pages, index, entry)
		if (is_leaked(entry))
			give_page((u64)index << PAGE_SHIFT);
}

static int set_leak(const char *value, const struct kernel_param *param)
{
	unsigned long flags;
	int rc;

	spin_lock_irqsave(&module_lock, flags);
	rc = param_set_uint(value, param);
	if (!rc && !leak)
		forget_leaked();
	spin_unlock_irqrestore(&module_lock, flags);
	return rc;
}

/* ---------------------------------------------------------------- the interface */

static bool injected(enum tdh_leaf leaf)
{
	if (inject_leaf != leaf || !inject_times)
		return false;
	if (inject_after) {
		inject_after--;
		return false;
	}
	inject_times--;
	return true;
}

static u64 call_leaf(enum tdh_leaf leaf, struct tdx_module_args *regs)
{
	u64 rcx = regs->rcx, rdx = regs->rdx;

	switch (leaf) {
	case TDH_MNG_CREATE:
		return mng_create(rcx, rdx);
	case TDH_MNG_KEY_CONFIG:
		return mng_key_config(td_of(rcx));
	case TDH_MNG_ADDCX:
		return mng_addcx(rcx, td_of(rdx));
	case TDH_MNG_INIT:
		return mng_init(td_of(rcx), rdx, &regs->rcx);
	case TDH_MNG_RD:
		return mng_rd(td_of(rcx), rdx, &regs->r8);
	case TDH_MNG_VPFLUSHDONE:
		return mng_vpflushdone(td_of(rcx));
	case TDH_MNG_KEY_FREEID:
		return mng_key_freeid(td_of(rcx));
	case TDH_VP_CREATE:
		return vp_create(rcx, td_of(rdx));
	case TDH_VP_ADDCX:
		return vp_addcx(rcx, vcpu_of(rdx));
	case TDH_VP_INIT:
		return vp_init(vcpu_of(rcx));
	case TDH_VP_RD:
		return vp_rd_wr(vcpu_of(rcx), regs, false);
	case TDH_VP_WR:
		return vp_rd_wr(vcpu_of(rcx), regs, true);
	case TDH_VP_FLUSH:
		return vp_flush(vcpu_of(rcx));
	case TDH_VP_ENTER: /* no processor here could: the vCPU is dead, the TD and the host are not */
		return TDX_NON_RECOVERABLE_VCPU;
	case TDH_PHYMEM_CACHE_WB:
		return phymem_cache_wb();
	case TDH_PHYMEM_PAGE_WBINVD:
		return phymem_page_wbinvd(rcx);
	case TDH_PHYMEM_PAGE_RECLAIM:
		return phymem_page_reclaim(regs);
	case TDH_MEM_TRACK:
		return mem_track(td_of(rcx));
	case TDH_MR_FINALIZE:
		return mr_finalize(td_of(rcx));
	default:
		break;
	}
	/* What follows works on guest addresses, and leaves RCX and RDX 0 but for sept_error(). */
	regs->rcx = regs->rdx = 0;
	switch (leaf) {
	case TDH_MEM_SEPT_ADD:
		return mem_sept_add(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_ADD:
		return mem_page_add(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_AUG:
		return mem_page_aug(td_of(rdx), rcx, regs);
	case TDH_MR_EXTEND:
		return mr_extend(td_of(rdx), rcx, regs);
	case TDH_MEM_RANGE_BLOCK:
		return mem_range_block(td_of(rdx), rcx, regs);
	case TDH_MEM_PAGE_REMOVE:
		return mem_page_remove(td_of(rdx), rcx, regs);
	default:
		return TDX_OPERAND_INVALID | OPERAND_RAX;
	}
}

/* May be called with interrupts off and other locks held: nothing here sleeps. */
u64 tdx_module_call(enum tdh_leaf leaf, struct tdx_module_args *regs)
{
	unsigned long flags;
	u64 status;

	spin_lock_irqsave(&module_lock, flags);
	calls++;
	if (injected(leaf)) {
		regs->rcx = regs->rdx = regs->r8 = 0;
		status = inject_status;
	} else {
		status = call_leaf(leaf, regs);
	}
	spin_unlock_irqrestore(&module_lock, flags);
	return status;
}

/* ---------------------------------------------------------------- /proc/kvmharness_tdx */

void tdx_module_show(struct seq_file *seq)
{
	unsigned int leaves[SEPT_MAPPED + 1] = {}, count = 0, by_type[ARRAY_SIZE(owned)];
	typeof(last) shown;
	u8 digest[SHA384_DIGEST_SIZE] = {};
	unsigned long flags, index, at;
	struct sept_leaf *leaf;
	u64 all_calls;
	struct td *td;

	spin_lock_irqsave(&module_lock, flags);
	shown = last;
	all_calls = calls;
	memcpy(by_type, owned, sizeof(owned));
	xa_for_each(&tds, index, td) {
		count++;
		xa_for_each(&td->leaves, at, leaf)
			leaves[leaf->state]++;
	}
	spin_unlock_irqrestore(&module_lock, flags);
	if (shown.any)
		sha384_final(&shown.mrtd, digest);
	/* The TD used last: MRTD as it would be if finalized now. */
	seq_printf(seq, "digest=%*phN\nfinalized=%d\nadded=%llu\nextended=%llu\naugmented=%llu\n",
		   SHA384_DIGEST_SIZE, digest, shown.finalized, shown.added, shown.extended,
		   shown.augmented);
	/* All TDs: the module's pages by type, leaf entries by state. */
	seq_printf(seq, "pages_tdr=%u\npages_tdcx=%u\npages_tdvpr=%u\npages_sept=%u\npages_reg=%u\n",
		   by_type[PT_TDR], by_type[PT_TDCX], by_type[PT_TDVPR], by_type[PT_EPT],
		   by_type[PT_REG]);
	seq_printf(seq, "sept_mapped=%u\nsept_pending=%u\nsept_blocked=%u\n", leaves[SEPT_MAPPED],
		   leaves[SEPT_PENDING], leaves[SEPT_BLOCKED] + leaves[SEPT_PENDING_BLOCKED]);
	seq_printf(seq, "tds=%u\nkeyids=%u\nkeyids_all=%u\nseamcalls=%llu\n", count,
		   bitmap_weight(hkids, FIRST_KEYID + KEYIDS), KEYIDS, all_calls);
}
