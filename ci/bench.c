/* SPDX-License-Identifier: MIT */
/*
 * The C half of ci/bench: the same work as its Python half, with nothing in between. Prints one line
 * `name nanoseconds-per-operation` each.
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

static int make_vm(int kvm, void *memory, size_t size, int *vcpu, struct kvm_run **run, size_t run_size)
{
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = 0, .memory_size = size, .userspace_addr = (unsigned long)memory,
	};
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die("VM");
	*vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (*vcpu < 0 || ioctl(*vcpu, KVM_GET_SREGS, &sregs))
		die("vCPU");
	*run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu, 0);
	sregs.cs.base = sregs.cs.selector = 0;
	if (*run == MAP_FAILED || ioctl(*vcpu, KVM_SET_SREGS, &sregs) || ioctl(*vcpu, KVM_SET_REGS, &regs))
		die("registers");
	return vm;
}

int main(int argc, char **argv)
{
	enum { CALLS = 200000, EXITS = 100000, VMS = 200, COPY = 64 << 20, COPIES = 8, SIZE = 1 << 20 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), file, vm, vcpu, i;
	size_t run_size;
	struct kvm_run *run;
	char *memory, *from, *to;
	double start;

	if (kvm < 0 || argc != 2)
		die("/dev/kvm");
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	file = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (memory == MAP_FAILED || file < 0 || read(file, memory + 0x1000, 0x1000) <= 0)
		die(argv[1]);

	start = now();
	for (i = 0; i < CALLS; i++)
		ioctl(kvm, KVM_CHECK_EXTENSION, 0);
	printf("ioctl %.1f\n", (now() - start) / CALLS);

	from = mmap(NULL, COPY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	to = mmap(NULL, COPY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(from, 1, COPY);
	memset(to, 2, COPY);
	start = now();
	for (i = 0; i < COPIES; i++) {
		memcpy(to, from, COPY);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	printf("copy %.1f\n", (now() - start) / COPIES / (COPY >> 20));

	vm = make_vm(kvm, memory, SIZE, &vcpu, &run, run_size);
	for (i = 0; i < 1000; i++)
		ioctl(vcpu, KVM_RUN, 0);
	start = now();
	for (i = 0; i < EXITS; i++)
		if (ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
			die("KVM_RUN");
	printf("exit %.1f\n", (now() - start) / EXITS);
	munmap(run, run_size);
	close(vcpu);
	close(vm);

	start = now();
	for (i = 0; i < VMS; i++) {
		vm = make_vm(kvm, memory, SIZE, &vcpu, &run, run_size);
		if (ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
			die("KVM_RUN");
		munmap(run, run_size);
		close(vcpu);
		close(vm);
	}
	printf("vm %.1f\n", (now() - start) / VMS);
	return 0;
}
