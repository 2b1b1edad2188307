/* SPDX-License-Identifier: MIT */
/*
 * The C half of ci/bench: the same work as its Python half, with nothing in between. Reads lines
 * `what count [size]` and answers each by the nanoseconds that an operation took, so that the two halves
 * can take turns.
 *
 *     bench PAYLOAD        PAYLOAD: a flat real-mode image for gpa 0x1000 that writes to a port for ever
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 1 << 20, MOST = 64 << 20, SLOT_GPA = 1 << 30 };

static int kvm, vm, vcpu;
static size_t run_size;
static struct kvm_run *run;
static char *memory, *from, *to;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void set_slot(int slot, unsigned long gpa, size_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size,
		.userspace_addr = (unsigned long)memory,
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die("KVM_SET_USER_MEMORY_REGION");
}

static void make_vm(void)
{
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;

	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("KVM_CREATE_VM");
	set_slot(0, 0, SIZE);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		die("vCPU");
	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	sregs.cs.base = sregs.cs.selector = 0;
	if (run == MAP_FAILED || ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		die("registers");
}

static void close_vm(void)
{
	munmap(run, run_size);
	close(vcpu);
	close(vm);
}

static void one_exit(void)
{
	if (ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
		die("KVM_RUN");
}

static void operation(char what, size_t size)
{
	struct kvm_regs regs;

	switch (what) {
	case 'i':
		ioctl(kvm, KVM_CHECK_EXTENSION, 0);
		return;
	case 'r':
		if (ioctl(vcpu, KVM_GET_REGS, &regs))
			die("KVM_GET_REGS");
		return;
	case 's':
		set_slot(1, SLOT_GPA, SIZE);
		set_slot(1, SLOT_GPA, 0);
		return;
	case 'e':
		one_exit();
		return;
	case 'c':
		memcpy(to, from, size);
		__asm__ volatile("" : : "r"(to) : "memory");
		return;
	case 'v':
		make_vm();
		one_exit();
		close_vm();
		return;
	}
	die("no such operation");
}

int main(int argc, char **argv)
{
	int file, kept_vm, kept_vcpu, count, i;
	struct kvm_run *kept_run;
	size_t size;
	double start;
	char what;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0 || argc != 2)
		die("/dev/kvm");
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	memory = map(SIZE);
	from = map(MOST);
	to = map(MOST);
	memset(from, 1, MOST);
	memset(to, 2, MOST);
	file = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, memory + 0x1000, 0x1000) <= 0)
		die(argv[1]);
	make_vm();
	kept_vm = vm;
	kept_vcpu = vcpu;
	kept_run = run;
	while (scanf(" %c %d %zu", &what, &count, &size) == 3) {
		if (size > MOST)
			die("too large");
		start = now();
		for (i = 0; i < count; i++)
			operation(what, size);
		printf("%.1f\n", (now() - start) / count);
		fflush(stdout);
		vm = kept_vm;
		vcpu = kept_vcpu;
		run = kept_run;
	}
	return 0;
}
