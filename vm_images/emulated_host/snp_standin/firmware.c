// SPDX-License-Identifier: GPL-2.0
/*
 * The secure processor's firmware in software: the SNP commands that KVM's launch uses.
 *
 * Stands in for the mailbox of the ccp driver and all behind it. Each command makes the checks of
 * the firmware ABI (publication 56860, chapter 8), in the order of AMD's published firmware, and
 * answers with its status codes. Left out: the ID block's signatures, which are taken as good,
 * migration agents and images, and what only a running guest would need.
 */
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/string.h>
#include "standin.h"

#define API_MAJOR 1
#define API_MINOR 55

/* Guest policy (firmware ABI 4.3). */
#define POLICY_ABI_MINOR(p) ((p) & 0xff)
#define POLICY_ABI_MAJOR(p) (((p) >> 8) & 0xff)
#define POLICY_SMT BIT_ULL(16)
#define POLICY_MUST_BE_ONE BIT_ULL(17)
#define POLICY_RESERVED (~GENMASK_ULL(20, 0))

/* Measured as zero in a VMSA (firmware ABI 8.17.2, PAGE_TYPE_VMSA; APM volume 2, table B-4). */
#define VMSA_GUEST_TSC_SCALE 0x2f0
#define VMSA_GUEST_TSC_OFFSET 0x2f8

#define PAGE_INFO_BYTES 0x70
#define ID_KEY_ALGORITHM_ECDSA_P384 1

static bool smt = true;
module_param(smt, bool, 0644);
MODULE_PARM_DESC(smt, "whether the machine has SMT on: a policy that forbids it is then refused");

static bool encrypt = true;
module_param(encrypt, bool, 0644);
MODULE_PARM_DESC(encrypt, "whether the host reads other bytes from a guest's page");

static bool verbose;
module_param(verbose, bool, 0644);
MODULE_PARM_DESC(verbose, "log every command and its status");

static DEFINE_MUTEX(lock);		/* the mailbox takes one command at a time */
static atomic_t commands[256];
static struct guest_context last;	/* copy of the context changed last, for the report */
static enum { CLEAN, ALLOCATED, IN_USE, DIRTY } asid_use[MAX_ASID + 1];

/* The kernel gives addresses with the C-bit set. */
static u64 pfn_of(u64 address)
{
	return (address & GENMASK_ULL(50, 0)) >> PAGE_SHIFT;
}

static void *page_of(u64 address)
{
	return __va(PFN_PHYS(pfn_of(address)));
}

/* The context in a page in the Context state, or NULL. */
static struct guest_context *context_at(u64 address)
{
	if (rmp_state(rmp_get(pfn_of(address))) != CONTEXT)
		return NULL;
	return page_of(address);
}

static int change_state(u64 address, enum page_state from, int otherwise, union rmp_entry entry)
{
	if (rmp_state(rmp_get(pfn_of(address))) != from)
		return otherwise;
	return rmp_put(pfn_of(address), entry) ? SEV_RET_RESOURCE_LIMIT : SEV_RET_SUCCESS;
}

static const union rmp_entry firmware_page = { .assigned = 1, .immutable = 1 };
static const union rmp_entry context_page = { .assigned = 1, .immutable = 1, .vmsa = 1 };

/* SNP_GCTX_CREATE: a Firmware page becomes a guest's context. */
static int gctx_create(struct sev_data_snp_addr *command)
{
	int status = change_state(command->address, FIRMWARE, SEV_RET_INVALID_PAGE_STATE,
				  context_page);

	if (!status)
		memset(page_of(command->address), 0, PAGE_SIZE);
	return status;
}

/* SNP_LAUNCH_START: the context gets a policy; the launch digest starts as zeros. */
static int launch_start(struct sev_data_snp_launch_start *command)
{
	struct guest_context *guest;
	u64 policy = command->policy;

	if (command->rsvd)
		return SEV_RET_INVALID_PARAM;
	guest = context_at(command->gctx_paddr);
	if (!guest)
		return SEV_RET_INVALID_GUEST;
	if (guest->state != GSTATE_INIT)
		return SEV_RET_INVALID_GUEST_STATE;
	if (!(policy & POLICY_MUST_BE_ONE) || (policy & POLICY_RESERVED) ||
	    (smt && !(policy & POLICY_SMT)) || POLICY_ABI_MAJOR(policy) > API_MAJOR ||
	    (POLICY_ABI_MAJOR(policy) == API_MAJOR && POLICY_ABI_MINOR(policy) > API_MINOR))
		return SEV_RET_POLICY_FAILURE;
	guest->policy = policy;
	guest->state = GSTATE_LAUNCH;
	record_start(command);
	last = *guest;
	return SEV_RET_SUCCESS;
}

/*
 * SNP_ACTIVATE: the guest gets an ASID. One that still owns pages, or that was used and not flushed
 * since, is refused: here a page that the kernel leaked meets the next guest.
 */
static int activate(struct sev_data_snp_activate *command)
{
	struct guest_context *guest = context_at(command->gctx_paddr);
	u32 asid = command->asid;

	if (!guest)
		return SEV_RET_INVALID_GUEST;
	if (guest->state == GSTATE_INIT)
		return SEV_RET_INVALID_GUEST_STATE;
	if (rmp_pages_of_asid(asid))
		return SEV_RET_INVALID_CONFIG;
	if (!asid || asid > MAX_ASID)
		return SEV_RET_INVALID_ASID;
	if (asid_use[asid] == ALLOCATED || asid_use[asid] == IN_USE)
		return SEV_RET_ASID_OWNED;
	if (guest->asid)
		return SEV_RET_ACTIVE;
	if (asid_use[asid] == DIRTY)
		return SEV_RET_DFFLUSH_REQUIRED;
	asid_use[asid] = guest->state == GSTATE_RUNNING ? IN_USE : ALLOCATED;
	guest->asid = asid;
	record_activate(command);
	last = *guest;
	return SEV_RET_SUCCESS;
}

/* What the firmware measures of a page: PAGE_INFO.CONTENTS. */
static void measure_contents(u8 *page, int type, u8 digest[SHA384_BYTES])
{
	u64 scale, offset;

	memset(digest, 0, SHA384_BYTES);
	if (type == SNP_PAGE_TYPE_NORMAL)
		sha384(page, PAGE_SIZE, digest);
	if (type == SNP_PAGE_TYPE_VMSA) {
		memcpy(&scale, page + VMSA_GUEST_TSC_SCALE, 8);
		memcpy(&offset, page + VMSA_GUEST_TSC_OFFSET, 8);
		memset(page + VMSA_GUEST_TSC_SCALE, 0, 8);
		memset(page + VMSA_GUEST_TSC_OFFSET, 0, 8);
		sha384(page, PAGE_SIZE, digest);
		memcpy(page + VMSA_GUEST_TSC_SCALE, &scale, 8);
		memcpy(page + VMSA_GUEST_TSC_OFFSET, &offset, 8);
	}
}

/* GCTX.LD = SHA384(PAGE_INFO), which holds the LD before it (firmware ABI 8.17.2). */
static void extend_digest(struct guest_context *guest, struct sev_data_snp_launch_update *command,
			  u64 gpa, u8 *page)
{
	static struct {
		u8 digest_cur[SHA384_BYTES];
		u8 contents[SHA384_BYTES];
		u16 length;
		u8 page_type;
		u8 imi_page;
		u8 vmpl3_perms, vmpl2_perms, vmpl1_perms;
		u8 reserved;
		u64 gpa;
	} __packed info;

	BUILD_BUG_ON(sizeof(info) != PAGE_INFO_BYTES);
	memset(&info, 0, sizeof(info));
	memcpy(info.digest_cur, guest->digest, SHA384_BYTES);
	measure_contents(page, command->page_type, info.contents);
	info.length = sizeof(info);
	info.page_type = command->page_type;
	info.imi_page = command->imi_page;
	info.vmpl1_perms = command->vmpl1_perms;
	info.vmpl2_perms = command->vmpl2_perms;
	info.vmpl3_perms = command->vmpl3_perms;
	info.gpa = gpa;
	sha384(&info, sizeof(info), guest->digest);
}

/* Not encryption: bytes that differ from the plain ones, by page and by guest. */
static void disguise(u64 *page, u64 pfn, u32 asid)
{
	u64 i;

	for (i = 0; i < PAGE_SIZE / sizeof(*page); i++)
		page[i] ^= 0x9e3779b97f4a7c15ULL * (pfn * 512 + i + 1) + asid;
}

/* SNP_LAUNCH_UPDATE: a Pre-Guest page is measured, encrypted and becomes Guest-Valid. */
static int launch_update(struct sev_data_snp_launch_update *command)
{
	u64 pfn = pfn_of(command->address);
	union rmp_entry entry = rmp_get(pfn);
	struct guest_context *guest;
	u8 *page = page_of(command->address);
	int status;

	if (command->rsvd || command->rsvd2 || command->rsvd3 || command->rsvd4)
		return SEV_RET_INVALID_PARAM;
	guest = context_at(command->gctx_paddr);
	if (!guest)
		return SEV_RET_INVALID_GUEST;
	if (rmp_state(entry) != PRE_GUEST)
		return SEV_RET_INVALID_PAGE_STATE;
	/* 2 MiB: the ABI has it, KVM up to 7.3 does not use it, and it isn't modelled. */
	if (entry.large || command->page_size)
		return SEV_RET_INVALID_PAGE_SIZE;
	if (command->page_type < SNP_PAGE_TYPE_NORMAL || command->page_type >= SNP_PAGE_TYPE_MAX)
		return SEV_RET_INVALID_PARAM;
	if (guest->state != GSTATE_LAUNCH)
		return SEV_RET_INVALID_GUEST_STATE;
	if (!guest->asid)
		return SEV_RET_INACTIVE;
	if (entry.asid != guest->asid)
		return SEV_RET_INVALID_PAGE_OWNER;

	if (command->page_type == SNP_PAGE_TYPE_CPUID) {
		status = cpuid_page_check(page);
		if (status)
			return status;	/* corrected, left unencrypted and Pre-Guest */
	}
	record_page(command, (u64)entry.gfn << PAGE_SHIFT, page);
	extend_digest(guest, command, (u64)entry.gfn << PAGE_SHIFT, page);
	if (command->page_type == SNP_PAGE_TYPE_ZERO || command->page_type == SNP_PAGE_TYPE_SECRET)
		memset(page, 0, PAGE_SIZE);
	if (command->page_type == SNP_PAGE_TYPE_SECRET)
		*(u32 *)page = 3;	/* the layout's version; keys would follow */
	if (encrypt)
		disguise((u64 *)page, pfn, guest->asid);

	entry.validated = 1;
	entry.immutable = 0;
	entry.vmsa = command->page_type == SNP_PAGE_TYPE_VMSA;
	if (rmp_put(pfn, entry))
		return SEV_RET_RESOURCE_LIMIT;
	rmp_seal(pfn);
	guest->pages++;
	guest->vmsas += entry.vmsa;
	last = *guest;
	return SEV_RET_SUCCESS;
}

/* The checks of an ID block but for its signatures: LD, then policy, then algorithms. */
static int check_id_block(struct guest_context *guest, struct sev_data_snp_launch_finish *command)
{
	const u8 *block = __va(command->id_block_paddr & GENMASK_ULL(50, 0));
	const u32 *algorithms = __va(command->id_auth_paddr & GENMASK_ULL(50, 0));
	u64 policy;

	if (memcmp(block, guest->digest, SHA384_BYTES))
		return SEV_RET_BAD_MEASUREMENT;
	memcpy(&policy, block + 88, sizeof(policy));
	if (policy != guest->policy)
		return SEV_RET_POLICY_FAILURE;
	if (algorithms[0] != ID_KEY_ALGORITHM_ECDSA_P384 ||
	    (command->auth_key_en && algorithms[1] != ID_KEY_ALGORITHM_ECDSA_P384))
		return SEV_RET_INVALID_PARAM;
	return SEV_RET_SUCCESS;
}

/* SNP_LAUNCH_FINISH: the launch digest is final, the guest may run. */
static int launch_finish(struct sev_data_snp_launch_finish *command)
{
	struct guest_context *guest;
	int status;

	if (command->rsvd)
		return SEV_RET_INVALID_PARAM;
	guest = context_at(command->gctx_paddr);
	if (!guest)
		return SEV_RET_INVALID_GUEST;
	if (guest->state != GSTATE_LAUNCH)
		return SEV_RET_INVALID_GUEST_STATE;
	if (!guest->asid)
		return SEV_RET_INACTIVE;
	record_finish(command, __va(command->id_block_paddr & GENMASK_ULL(50, 0)),
		      __va(command->id_auth_paddr & GENMASK_ULL(50, 0)));
	if (command->id_block_en) {
		status = check_id_block(guest, command);
		if (status)
			return status;
		guest->id_block = true;
	}
	memcpy(guest->host_data, command->host_data, sizeof(guest->host_data));
	guest->state = GSTATE_RUNNING;
	asid_use[guest->asid] = IN_USE;
	last = *guest;
	return SEV_RET_SUCCESS;
}

/* SNP_DECOMMISSION: the guest's ASID is let go, its context page is the firmware's again. */
static int decommission(struct sev_data_snp_addr *command)
{
	struct guest_context *guest = context_at(command->address);

	if (!guest)
		return SEV_RET_INVALID_GUEST;
	/* An ASID under which a guest could run needs a flush before it serves again. */
	if (guest->asid)
		asid_use[guest->asid] = asid_use[guest->asid] == IN_USE ? DIRTY : CLEAN;
	memset(guest, 0, PAGE_SIZE);
	return change_state(command->address, CONTEXT, SEV_RET_INVALID_GUEST, firmware_page);
}

/* SNP_PAGE_RECLAIM: an immutable page can be changed with RMPUPDATE again. */
static int page_reclaim(struct sev_data_snp_page_reclaim *command)
{
	u64 pfn = pfn_of(command->paddr);
	union rmp_entry entry = rmp_get(pfn);
	enum page_state state = rmp_state(entry);

	if (entry.large != (command->paddr & 1))
		return SEV_RET_INVALID_PAGE_SIZE;
	if (!entry.immutable)
		return SEV_RET_SUCCESS;
	if (state != FIRMWARE && state != PRE_GUEST)
		return SEV_RET_INVALID_PAGE_STATE;
	entry.immutable = 0;	/* to Reclaim, or to Guest-Invalid */
	return rmp_put(pfn, entry) ? SEV_RET_RESOURCE_LIMIT : SEV_RET_SUCCESS;
}

static int snp_platform_status(struct sev_data_snp_addr *command)
{
	struct sev_user_data_snp_status *status = __va(command->address & GENMASK_ULL(50, 0));

	if (rmp_state(rmp_get(pfn_of(command->address))) != FIRMWARE)
		return SEV_RET_INVALID_PAGE_STATE;
	memset(status, 0, sizeof(*status));
	status->api_major = API_MAJOR;
	status->api_minor = API_MINOR;
	status->state = 1;	/* INIT */
	status->is_rmp_initialized = 1;
	return SEV_RET_SUCCESS;
}

/* PLATFORM_STATUS of the firmware's SEV part (SEV API, publication 55766). */
static int legacy_platform_status(struct sev_user_data_status *status)
{
	memset(status, 0, sizeof(*status));
	status->api_major = API_MAJOR;
	status->api_minor = API_MINOR;
	status->state = 1;	/* INIT */
	return SEV_RET_SUCCESS;
}

static int df_flush(void)
{
	u32 asid;

	for (asid = 1; asid <= MAX_ASID; asid++)
		if (asid_use[asid] == DIRTY)
			asid_use[asid] = CLEAN;
	return SEV_RET_SUCCESS;
}

static int execute(int command, void *data)
{
	switch (command) {
	case SEV_CMD_PLATFORM_STATUS:
		return legacy_platform_status(data);
	case SEV_CMD_SNP_PLATFORM_STATUS:
		return snp_platform_status(data);
	case SEV_CMD_DF_FLUSH:
	case SEV_CMD_SNP_DF_FLUSH:
		return df_flush();
	case SEV_CMD_SNP_GCTX_CREATE:
		return gctx_create(data);
	case SEV_CMD_SNP_LAUNCH_START:
		return launch_start(data);
	case SEV_CMD_SNP_ACTIVATE:
		return activate(data);
	case SEV_CMD_SNP_LAUNCH_UPDATE:
		return launch_update(data);
	case SEV_CMD_SNP_LAUNCH_FINISH:
		return launch_finish(data);
	case SEV_CMD_SNP_DECOMMISSION:
		return decommission(data);
	case SEV_CMD_SNP_PAGE_RECLAIM:
		return page_reclaim(data);
	default:
		/* Launching SEV and SEV-ES guests, attestation, migration: not modelled. */
		pr_warn(PREFIX "command %#x is not modelled\n", command);
		return SEV_RET_INVALID_COMMAND;
	}
}

static int run(int command, void *data, int *status)
{
	int result;

	atomic_inc(&commands[command & 0xff]);
	if (!injected(command, &result))
		result = execute(command, data);
	else if (result < 0)
		return result;		/* the driver's own failure: it leaves the status as it is */
	if (verbose)
		pr_info(PREFIX "command %#x status %#x\n", command, result);
	if (status)
		*status = result;
	return result ? -EIO : 0;	/* as __sev_do_cmd_locked() has it */
}

/* In the place of sev_do_cmd() and what it calls. */
int firmware_command(int command, void *data, int *status)
{
	int rc;

	mutex_lock(&lock);
	rc = run(command, data, status);
	mutex_unlock(&lock);
	return rc;
}

/* In the place of snp_alloc_firmware_page(): a page in the Firmware state. */
void *firmware_alloc_page(gfp_t gfp)
{
	struct page *page;
	int rc;

	if (injected(ALLOC_FIRMWARE_PAGE, &rc))
		return NULL;
	page = alloc_page(gfp);
	if (!page)
		return NULL;
	if (standin_rmp_make_private(page_to_pfn(page), 0, PG_LEVEL_4K, 0, true))
		return NULL;	/* leaked, as in the kernel: its state is not known */
	return page_address(page);
}

/* In the place of snp_free_firmware_page(): to Reclaim, then to the hypervisor, then free. */
void firmware_free_page(void *address)
{
	struct sev_data_snp_page_reclaim reclaim = {};

	if (!address)
		return;
	reclaim.paddr = __pa(address);
	if (firmware_command(SEV_CMD_SNP_PAGE_RECLAIM, &reclaim, NULL) ||
	    standin_rmp_make_shared(__pa(address) >> PAGE_SHIFT, PG_LEVEL_4K)) {
		pr_warn(PREFIX "firmware page %#lx is leaked\n", __pa(address));
		return;
	}
	free_page((unsigned long)address);
}

static unsigned int asids_in_use(void)
{
	unsigned int asid, count = 0;

	for (asid = 1; asid <= MAX_ASID; asid++)
		count += asid_use[asid] == ALLOCATED || asid_use[asid] == IN_USE;
	return count;
}

/*
 * Give up what failures on purpose left with the firmware and in the RMP. The kernel uses neither
 * these pages nor these ASIDs again. Only for when no guest is alive.
 */
static int forget(const char *text, const struct kernel_param *param)
{
	unsigned int asid;

	mutex_lock(&lock);
	rmp_forget();
	for (asid = 1; asid <= MAX_ASID; asid++)
		if (asid_use[asid] == ALLOCATED || asid_use[asid] == IN_USE)
			asid_use[asid] = DIRTY;
	mutex_unlock(&lock);
	return 0;
}

static const struct kernel_param_ops forget_ops = { .set = forget };
module_param_cb(forget, &forget_ops, NULL, 0200);
MODULE_PARM_DESC(forget, "written to: give up all pages and ASIDs");

/* The launch's record, complete: no command is under way. */
void firmware_report_launch(struct seq_file *out)
{
	mutex_lock(&lock);
	record_report(out);
	mutex_unlock(&lock);
}

void firmware_report(struct seq_file *out)
{
	int i;

	mutex_lock(&lock);
	seq_printf(out, "firmware=%d.%d\n", API_MAJOR, API_MINOR);
	rmp_report(out);
	seq_printf(out, "asid=%u\nstate=%d\npolicy=%#llx\npages=%u\nvmsas=%u\nid_block=%d\n",
		   last.asid, last.state, last.policy, last.pages, last.vmsas, last.id_block);
	seq_printf(out, "digest=%48phN\nhost_data=%32phN\n", last.digest, last.host_data);
	seq_printf(out, "asids=%u\ninjected=%d\n", asids_in_use(), injections_struck());
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (atomic_read(&commands[i]))
			seq_printf(out, "command.%#04x=%d\n", i, atomic_read(&commands[i]));
	mutex_unlock(&lock);
}
