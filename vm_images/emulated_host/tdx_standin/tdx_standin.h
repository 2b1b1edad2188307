/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the stand-in for a TDX host know of each other. README.md says what each is. */
#ifndef TDX_STANDIN_H
#define TDX_STANDIN_H

#include <linux/ftrace.h>
#include <linux/seq_file.h>
#include <linux/types.h>
#include <asm/tdx.h>

/* SEAMCALL leaf numbers ("Intel TDX Module ABI Specification", host-side interface functions). */
enum tdh_leaf {
	TDH_VP_ENTER = 0,
	TDH_MNG_ADDCX = 1,
	TDH_MEM_PAGE_ADD = 2,
	TDH_MEM_SEPT_ADD = 3,
	TDH_VP_ADDCX = 4,
	TDH_MEM_PAGE_AUG = 6,
	TDH_MEM_RANGE_BLOCK = 7,
	TDH_MNG_KEY_CONFIG = 8,
	TDH_MNG_CREATE = 9,
	TDH_VP_CREATE = 10,
	TDH_MNG_RD = 11,
	TDH_MR_EXTEND = 16,
	TDH_MR_FINALIZE = 17,
	TDH_VP_FLUSH = 18,
	TDH_MNG_VPFLUSHDONE = 19,
	TDH_MNG_KEY_FREEID = 20,
	TDH_MNG_INIT = 21,
	TDH_VP_INIT = 22,
	TDH_VP_RD = 26,
	TDH_PHYMEM_PAGE_RECLAIM = 28,
	TDH_MEM_PAGE_REMOVE = 29,
	TDH_MEM_TRACK = 38,
	TDH_PHYMEM_CACHE_WB = 40,
	TDH_PHYMEM_PAGE_WBINVD = 41,
	TDH_VP_WR = 43,
};

/* Private key IDs for TDs: few, so that a test uses them up quickly. */
#define FIRST_KEYID 1
#define KEYIDS 15U

/* The software TDX module (tdx_module.h): module.c, sys_info.c, report.c. */
u64 tdx_module_call(enum tdh_leaf leaf, struct tdx_module_args *regs);
const struct tdx_sys_info *tdx_module_info(void);
void tdx_module_show(struct seq_file *seq);
void record_show(struct seq_file *seq);

/* Not a leaf: the kernel's choice of a key for a TD, which can fail on purpose too (inject.c). */
#define KEYID_ALLOC 0x100
bool tdx_module_fails(u32 call);
void tdx_module_forget(void);
void tdx_module_page_reset(u64 page);

/* seamcalls.c: the functions that kvm-intel calls. */
int seamcalls_start(void);

/* vmx_cpu.c: the processor's side. */
int vmx_cpu_start(void);

/* redirect.c: finding and replacing the kernel's functions and data. */
struct redirect {
	const char *name;
	void *to;
	/* NULL, or decides by the call's registers whether this call is redirected. */
	bool (*wanted)(struct ftrace_regs *regs);
	struct ftrace_ops ops;
};

/* One of a list that ends with a name of NULL: calls of the function go to `to`. */
struct replacement {
	const char *name;
	void *to;
	unsigned long address;
};

int find_symbols(void);
unsigned long symbol_address(const char *name);
int redirect(struct redirect *redirect);
int redirect_all(struct replacement *list);
int overwrite_data(void *address, const void *value, size_t size);

#endif
