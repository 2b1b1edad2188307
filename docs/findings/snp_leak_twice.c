// SPDX-License-Identifier: MIT
/*
 * A page that KVM gives to snp_leak_pages() twice, or gives and frees: list corruption, and with
 * CONFIG_BUG_ON_DATA_CORRUPTION a kernel BUG in __snp_leak_pages(). docs/findings.md tells of it.
 *
 *   cc -Wall -Wextra -Werror -o snp_leak_twice snp_leak_twice.c
 *   ./snp_leak_twice update|finish
 *
 * It takes a secure processor that fails SNP_PAGE_RECLAIM. No real one does so when asked: the
 * program asks the stand-in of an emulated SNP host (parameter `inject` of its module snp_standin),
 * and can run nowhere else. Everything else is what a VMM does.
 *
 *   update  LAUNCH_UPDATE of a CPUID page that the firmware refuses, and which KVM then can't take
 *           back; the VM is closed. Twice: the second time the list of leaked pages is corrupt.
 *   finish  LAUNCH_FINISH with a vCPU whose VMSA the firmware refuses, and which KVM then can't
 *           take back; the VM is closed. Once is enough.
 *
 * Exit status: 0 the kernel survived, 2 a call went otherwise than it should, 4 no such host. Where
 * the bug is, it does not come to an exit.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* For headers older than what they have: guest_memfd of 6.8, INIT2 of 6.10, SNP's launch of 6.11. */
#ifndef KVM_CREATE_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
struct kvm_userspace_memory_region2 {
	__u32 slot, flags;
	__u64 guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
	__u32 guest_memfd, pad1;
	__u64 pad2[14];
};
struct kvm_memory_attributes {
	__u64 address, size, attributes, flags;
};
struct kvm_create_guest_memfd {
	__u64 size, flags, reserved[6];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef KVM_X86_SEV_VMSA_FEATURES
#define KVM_SEV_INIT2 22
struct kvm_sev_init {
	__u64 vmsa_features;
	__u32 flags;
	__u16 ghcb_version, pad1;
	__u32 pad2[8];
};
#endif
#ifndef KVM_SEV_SNP_PAGE_TYPE_CPUID
#define KVM_SEV_SNP_PAGE_TYPE_CPUID 6
#define KVM_SEV_SNP_LAUNCH_START 100
#define KVM_SEV_SNP_LAUNCH_UPDATE 101
#define KVM_SEV_SNP_LAUNCH_FINISH 102
struct kvm_sev_snp_launch_start {
	__u64 policy;
	__u8 gosvw[16];
	__u16 flags;
	__u8 pad0[6];
	__u64 pad1[4];
};
struct kvm_sev_snp_launch_update {
	__u64 gfn_start, uaddr, len;
	__u8 type, pad0;
	__u16 flags;
	__u32 pad1;
	__u64 pad2[4];
};
struct kvm_sev_snp_launch_finish {
	__u64 id_block_uaddr, id_auth_uaddr;
	__u8 id_block_en, auth_key_en, vcek_disabled, host_data[32], pad0[3];
	__u16 flags;
	__u64 pad1[4];
};
#endif
#ifndef KVM_X86_SNP_VM
#define KVM_X86_SNP_VM 4
#endif

#define PAGE 4096UL
#define INJECT "/sys/module/snp_standin/parameters/inject"

/* SEV_CMD_SNP_* of <linux/psp-sev.h>, which is not uAPI; 23 is the status RESOURCE_LIMIT. */
#define FAIL_RECLAIM "c7:23:0:1"
#define FAIL_UPDATE_AND_RECLAIM "a1:23:0:1,c7:23:0:1"

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

static void inject(const char *text)
{
	int fd = open(INJECT, O_WRONLY | O_CLOEXEC);

	if (fd < 0) {
		fprintf(stderr, "%s: %s (it takes an emulated SNP host)\n", INJECT, strerror(errno));
		exit(4);
	}
	if (write(fd, text, strlen(text)) < 0)
		fail("inject");
	close(fd);
}

static int command(int vm, int sev, unsigned int id, void *data)
{
	struct kvm_sev_cmd sev_command = {
		.id = id, .data = (uintptr_t)data, .sev_fd = (unsigned int)sev,
	};
	int rc = ioctl(vm, KVM_MEMORY_ENCRYPT_OP, &sev_command);

	printf("command %u: %s, firmware's code %#x\n", id, rc ? strerror(errno) : "ok",
	       sev_command.error);
	fflush(stdout);
	return rc;
}

/* A VM with one private page at 0 whose launch has started. */
static int start(int kvm, int sev, int *guest_memfd)
{
	struct kvm_sev_init init = { 0 };
	struct kvm_sev_snp_launch_start launch = { .policy = 0x30000 };
	struct kvm_create_guest_memfd create = { .size = PAGE };
	struct kvm_userspace_memory_region2 slot = {
		.flags = KVM_MEM_GUEST_MEMFD, .memory_size = PAGE,
	};
	struct kvm_memory_attributes private = {
		.size = PAGE, .attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	void *shared;
	int vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SNP_VM);

	if (vm < 0)
		fail("KVM_CREATE_VM");
	if (command(vm, sev, KVM_SEV_INIT2, &init))
		fail("KVM_SEV_INIT2");
	*guest_memfd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (*guest_memfd < 0)
		fail("KVM_CREATE_GUEST_MEMFD");
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	slot.userspace_addr = (uintptr_t)shared;
	slot.guest_memfd = (uint32_t)*guest_memfd;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &slot))
		fail("KVM_SET_USER_MEMORY_REGION2");
	if (ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &private))
		fail("KVM_SET_MEMORY_ATTRIBUTES");
	if (command(vm, sev, KVM_SEV_SNP_LAUNCH_START, &launch))
		fail("KVM_SEV_SNP_LAUNCH_START");
	return vm;
}

static void refuse_cpuid_page(int kvm, int sev)
{
	/* One function, leaf 0, that promises more leaves than any processor has. */
	static uint8_t page[PAGE] __attribute__((aligned(4096)));
	const uint32_t count = 1, eax = 0xffff;
	struct kvm_sev_snp_launch_update update = {
		.uaddr = (uintptr_t)page, .len = PAGE, .type = KVM_SEV_SNP_PAGE_TYPE_CPUID,
	};
	int guest_memfd, vm = start(kvm, sev, &guest_memfd);

	memset(page, 0, sizeof(page));
	memcpy(page, &count, sizeof(count));
	memcpy(page + 40, &eax, sizeof(eax));
	inject(FAIL_RECLAIM);
	if (!command(vm, sev, KVM_SEV_SNP_LAUNCH_UPDATE, &update)) {
		fprintf(stderr, "the firmware took a CPUID page that is wrong\n");
		exit(2);
	}
	close(guest_memfd);
	close(vm);
}

static void refuse_vmsa(int kvm, int sev)
{
	struct kvm_sev_snp_launch_finish finish = { 0 };
	int guest_memfd, vm = start(kvm, sev, &guest_memfd);
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

	if (vcpu < 0)
		fail("KVM_CREATE_VCPU");
	inject(FAIL_UPDATE_AND_RECLAIM);
	if (!command(vm, sev, KVM_SEV_SNP_LAUNCH_FINISH, &finish)) {
		fprintf(stderr, "the firmware took the VMSA\n");
		exit(2);
	}
	close(vcpu);
	close(guest_memfd);
	close(vm);
}

/*
 * Memory that goes to somebody, the page among it that was freed and leaked: else the next guest is
 * given that page, which the RMP has as another's, and no other page is leaked. On hardware an RMP
 * fault of the kernel's, as it clears the page.
 */
static void use_free_memory(void)
{
	void *used = mmap(NULL, 4096 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (used == MAP_FAILED)
		fail("mmap");
}

int main(int argc, char **argv)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int sev = open("/dev/sev", O_RDWR | O_CLOEXEC);
	int i;

	if (argc != 2 || (strcmp(argv[1], "update") && strcmp(argv[1], "finish"))) {
		fprintf(stderr, "usage: %s update|finish\n", argv[0]);
		return 2;
	}
	if (kvm < 0 || sev < 0) {
		fprintf(stderr, "no /dev/kvm or no /dev/sev\n");
		return 4;
	}
	for (i = 0; i < 3; i++) {
		printf("round %d\n", i + 1);
		if (!strcmp(argv[1], "update"))
			refuse_cpuid_page(kvm, sev);
		else
			refuse_vmsa(kvm, sev);
		use_free_memory();
	}
	printf("the kernel survived\n");
	return 0;
}
