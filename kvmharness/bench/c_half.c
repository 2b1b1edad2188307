/* SPDX-License-Identifier: MIT */
/*
 * The C half of the benchmark: the same work as its Python half, with nothing in between. Reads lines
 * `what count size` and answers each by the nanoseconds that an operation took, so that the two halves
 * can take turns.
 *
 *     c_half PAYLOAD       PAYLOAD: a flat real-mode image for gpa 0x1000 that writes to a port for ever
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 1 << 20, MOST = 64 << 20, SLOT_GPA = 1 << 30, PAGE = 4096, TURN_SECONDS = 300 };

/* Headers before 6.8 lack it. */
struct attributes {
	unsigned long long address, size, attributes, flags;
};
#define SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct attributes)
#define ATTRIBUTE_PRIVATE 8

static int kvm, vm, vcpu, second, attributed = -1;
static size_t run_size;
static struct kvm_run *run, *second_run;
static char *memory, *from, *to;
static sigjmp_buf guard;
static volatile sig_atomic_t guarded;
static atomic_bool over;

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

static struct kvm_run *make_vcpu(int id, int *fd)
{
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *page;

	*fd = ioctl(vm, KVM_CREATE_VCPU, id);
	if (*fd < 0 || ioctl(*fd, KVM_GET_SREGS, &sregs))
		die("vCPU");
	page = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	sregs.cs.base = sregs.cs.selector = 0;
	if (page == MAP_FAILED || ioctl(*fd, KVM_SET_SREGS, &sregs) || ioctl(*fd, KVM_SET_REGS, &regs))
		die("registers");
	return page;
}

static void make_vm(void)
{
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("KVM_CREATE_VM");
	set_slot(0, 0, SIZE);
	run = make_vcpu(0, &vcpu);
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

static void *second_exits(void *count)
{
	int i;

	for (i = 0; i < *(int *)count; i++)
		if (ioctl(second, KVM_RUN, 0) || second_run->exit_reason != KVM_EXIT_IO)
			die("KVM_RUN of the second vCPU");
	return NULL;
}

static void *spin(void *unused)
{
	while (!over)
		;
	return unused;
}

/* `count` exits, while another thread does what `body` says. */
static void exits_beside(void *(*body)(void *), int count)
{
	pthread_t thread;
	int i;

	over = 0;
	if (pthread_create(&thread, NULL, body, &count))
		die("thread");
	for (i = 0; i < count; i++)
		one_exit();
	over = 1;
	pthread_join(thread, NULL);
}

static void on_fault(int signal)
{
	if (guarded)
		siglongjmp(guard, 1);
	_exit(128 + signal);
}

static void guard_faults(void)
{
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static void guarded_copy(size_t size)
{
	if (sigsetjmp(guard, 0))
		die("copy");
	guarded = 1;
	memcpy(to, from, size);
	__asm__ volatile("" : : "r"(to) : "memory");
	guarded = 0;
}

static void set_attributes(int number, int vm_type)
{
	struct attributes range = {
		.address = SLOT_GPA + 2UL * number * PAGE, .size = PAGE,
		.attributes = number % 2 * ATTRIBUTE_PRIVATE,
	};

	if (attributed < 0)
		attributed = ioctl(kvm, KVM_CREATE_VM, vm_type);
	if (ioctl(attributed, SET_MEMORY_ATTRIBUTES, &range))
		die("KVM_SET_MEMORY_ATTRIBUTES");
}

static void operation(char what, int number, size_t size)
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
		guarded_copy(size);
		return;
	case 'a':
		set_attributes(number, (int)size);
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
	guard_faults();
	make_vm();
	second_run = make_vcpu(1, &second);
	kept_vm = vm;
	kept_vcpu = vcpu;
	kept_run = run;
	while (scanf(" %c %d %zu", &what, &count, &size) == 3) {
		if (size > MOST)
			die("too large");
		alarm(TURN_SECONDS); /* ends us: nobody waits for a hung ioctl */
		start = now();
		if (what == 't')
			exits_beside(second_exits, count);
		else if (what == 'b')
			exits_beside(spin, count);
		else
			for (i = 0; i < count; i++)
				operation(what, i, size);
		printf("%.1f\n", (now() - start) / count);
		fflush(stdout);
		vm = kept_vm;
		vcpu = kept_vcpu;
		run = kept_run;
	}
	return 0;
}
