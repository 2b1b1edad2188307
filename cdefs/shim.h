/* SPDX-License-Identifier: MIT */
/*
 * The few things that have to be C: an ioctl whose errno can't be lost, KVM_RUN with a deadline, and
 * copies that survive a page the host may not touch.
 *
 * System calls here return -errno, as the kernel does, so that nothing between the call and the
 * reader (another thread, a signal handler, the GIL) can change what is reported.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t kvmh_result(int64_t r)
{
	return r < 0 ? -errno : r;
}

static int64_t kvmh_ioctl(int fd, unsigned long request, void *arg)
{
	return kvmh_result(ioctl(fd, request, arg));
}

static int64_t kvmh_ioctl_value(int fd, unsigned long request, unsigned long arg)
{
	return kvmh_result(ioctl(fd, request, arg));
}

/* ------------------------------------------------------------------ ioctls in numbers
 *
 * One after the other, with nothing in between. After a turn the interpreter looks after its signals,
 * so that a Ctrl-C does not wait for the last of a million.
 */
#define KVMH_TURN_NS 50000000L

static int64_t kvmh_coarse_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

/*
 * The ioctl with each of `distinct` structs of `size` bytes, over and over, from number *done until
 * `count` are done or the turn is over. -errno of number *done, where it ends.
 */
static int64_t kvmh_ioctl_many(int fd, unsigned long request, char *structs, uint64_t size,
			       uint64_t distinct, uint64_t count, uint64_t *done)
{
	int64_t end = kvmh_coarse_ns() + KVMH_TURN_NS, r;

	while (*done < count) {
		r = kvmh_ioctl(fd, request, structs + *done % distinct * size);
		if (r < 0)
			return r;
		++*done;
		if (kvmh_coarse_ns() >= end)
			break;
	}
	return 0;
}

/*
 * KVM_MEMORY_ENCRYPT_OP of one command with each of `count` structs of `size` bytes, from number
 * progress[0]: again and again until what it counts down, at `left_at` in the struct, is 0. progress[1]
 * counts the calls.
 * 1: a call that succeeded left as much to do as there was.
 */
static int64_t kvmh_populate_many(int fd, char *command, uint64_t data_at, char *structs,
				  uint64_t size, uint64_t left_at, uint64_t count,
				  uint64_t *progress)
{
	int64_t end = kvmh_coarse_ns() + KVMH_TURN_NS, r;
	uint64_t before, *left;

	while (progress[0] < count) {
		*(uint64_t *)(command + data_at) = (uintptr_t)(structs + progress[0] * size);
		left = (uint64_t *)(structs + progress[0] * size + left_at);
		before = *left;
		r = kvmh_ioctl(fd, KVM_MEMORY_ENCRYPT_OP, command);
		++progress[1];
		if (r < 0)
			return r;
		if (!*left)
			++progress[0];
		else if (*left >= before)
			return 1;
		if (kvmh_coarse_ns() >= end)
			break;
	}
	return 0;
}

/* ------------------------------------------------------------------ KVM_RUN with a deadline
 *
 * A timer of the calling thread raises a real-time signal at the deadline. Its handler sets
 * kvm_run.immediate_exit before the interrupted KVM_RUN returns EINTR; a signal that arrives just
 * before the ioctl is entered makes the ioctl itself return EINTR, so the deadline can't be missed.
 * The timer then repeats every 10 ms: a kernel that swallows one signal and goes on gets the next.
 *
 * The timer is made once a thread. It is armed inside these functions alone: left armed, it would
 * interrupt what the thread does next, a launch ioctl among it.
 */
#define KVMH_SIGNAL (SIGRTMIN + 5)
#define KVMH_REPEAT_NS 10000000L

/* The kernel writes to this thread's current run page while the handler may set immediate_exit. */
static __thread struct kvm_run *volatile kvmh_current_run;
static __thread volatile sig_atomic_t kvmh_deadline_passed;

static __thread int kvmh_tid; /* 0: not asked for yet */
static __thread timer_t kvmh_timer;
static __thread int kvmh_has_timer;
static pthread_key_t kvmh_timer_end;
static int kvmh_prepare_error;

static void kvmh_on_deadline(int signal, siginfo_t *info, void *context)
{
	struct kvm_run *run = kvmh_current_run;

	(void)signal;
	(void)context;
	if (info->si_code == SI_TIMER)
		kvmh_deadline_passed = 1;
	if (run)
		run->immediate_exit = 1;
}

static void kvmh_end_timer(void *unused)
{
	(void)unused;
	if (kvmh_has_timer)
		timer_delete(kvmh_timer);
	kvmh_has_timer = 0;
}

/* The one thread that a fork leaves has another id, and no timers. */
static void kvmh_after_fork(void)
{
	kvmh_tid = 0;
	kvmh_has_timer = 0;
}

static pthread_once_t kvmh_run_once = PTHREAD_ONCE_INIT;

static void kvmh_prepare(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = kvmh_on_deadline;
	action.sa_flags = SA_SIGINFO; /* no SA_RESTART: KVM_RUN has to come back */
	sigemptyset(&action.sa_mask);
	sigaction(KVMH_SIGNAL, &action, NULL);
	kvmh_prepare_error = pthread_key_create(&kvmh_timer_end, kvmh_end_timer);
	if (!kvmh_prepare_error)
		kvmh_prepare_error = pthread_atfork(NULL, NULL, kvmh_after_fork);
}

static int kvmh_thread_id(void)
{
	pthread_once(&kvmh_run_once, kvmh_prepare);
	if (!kvmh_tid)
		kvmh_tid = (int)syscall(SYS_gettid);
	return kvmh_tid;
}

static int kvmh_make_timer(void)
{
	struct sigevent event;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = KVMH_SIGNAL;
	event._sigev_un._tid = kvmh_thread_id();
	if (kvmh_prepare_error)
		return -kvmh_prepare_error;
	if (timer_create(CLOCK_MONOTONIC, &event, &kvmh_timer))
		return -errno;
	kvmh_has_timer = 1;
	/* Any value but NULL has the destructor called when the thread ends. */
	return -pthread_setspecific(kvmh_timer_end, &kvmh_timer_end);
}

/* Disarm the deadline; gives what KVM_RUN's result `r` is to the caller. */
static int64_t kvmh_leave(struct kvm_run *run, const sigset_t *before, int64_t r)
{
	static const struct itimerspec never;

	/* Disarm before clearing: a signal still pending must find a run page it may write to. */
	timer_settime(kvmh_timer, 0, &never, NULL);
	if (sigismember(before, KVMH_SIGNAL))
		pthread_sigmask(SIG_SETMASK, before, NULL);
	kvmh_current_run = NULL;
	if (r == -EINTR && kvmh_deadline_passed)
		r = -ETIME;
	/* A kick that came after the exit stays set for the next run; a deadline's is used up. */
	if (kvmh_deadline_passed)
		run->immediate_exit = 0;
	return r;
}

/* Arm the deadline for KVM_RUN on this run page. kvmh_leave() has to follow, unless this fails. */
static int kvmh_enter(struct kvm_run *run, int64_t timeout_ns, sigset_t *before)
{
	struct itimerspec when;
	sigset_t unblock;
	int r;

	if (!run)
		return -EFAULT;
	if (!kvmh_has_timer && (r = kvmh_make_timer()))
		return r;

	kvmh_deadline_passed = 0;
	kvmh_current_run = run;
	sigemptyset(&unblock);
	sigaddset(&unblock, KVMH_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &unblock, before);

	if (timeout_ns < 1)
		timeout_ns = 1;
	when.it_value.tv_sec = timeout_ns / 1000000000;
	when.it_value.tv_nsec = timeout_ns % 1000000000;
	when.it_interval.tv_sec = 0;
	when.it_interval.tv_nsec = KVMH_REPEAT_NS;
	if (timer_settime(kvmh_timer, 0, &when, NULL))
		return (int)kvmh_leave(run, before, -errno);
	return 0;
}

/* Run until an exit or for timeout_ns. -ETIME: the deadline passed. -EINTR: another signal. */
static int64_t kvmh_run(int fd, struct kvm_run *run, int64_t timeout_ns)
{
	sigset_t before;
	int64_t r = kvmh_enter(run, timeout_ns, &before);

	if (r)
		return r;
	return kvmh_leave(run, &before, kvmh_result(ioctl(fd, KVM_RUN, 0)));
}

struct kvmh_until {
	uint8_t *ports;
	uint64_t passed_over;
	uint64_t most;
	uint64_t exits;
	uint8_t *output;
	uint64_t room;
	uint64_t used;
};

/* 1: this exit was an OUT to one of the ports, and its data is kept; -1: there is no room for it. */
static int kvmh_keep_output(const struct kvm_run *run, uint64_t run_size, struct kvmh_until *until)
{
	uint64_t size = (uint64_t)run->io.size * run->io.count, offset = run->io.data_offset;

	if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT ||
	    !(until->ports[run->io.port / 8] >> run->io.port % 8 & 1))
		return 0;
	if (size > until->room - until->used || offset > run_size || size > run_size - offset)
		return -1;
	memcpy(until->output + until->used, (const char *)run + offset, size);
	until->used += size;
	return 1;
}

/*
 * kvmh_run(), again and again: past the exits of which `until` says so. 1: it made as many exits as it
 * was to make, the last of which was such a one too. 0: at an exit for the caller.
 */
static int64_t kvmh_run_until(int fd, struct kvm_run *run, uint64_t run_size, int64_t timeout_ns,
			      struct kvmh_until *until)
{
	sigset_t before;
	int64_t r = kvmh_enter(run, timeout_ns, &before);
	int kept;

	if (r)
		return r;
	for (;;) {
		r = kvmh_result(ioctl(fd, KVM_RUN, 0));
		if (r < 0)
			break;
		until->exits++;
		kept = kvmh_keep_output(run, run_size, until);
		if (kept < 0 || (!kept && !(run->exit_reason < 64 &&
					    until->passed_over >> run->exit_reason & 1)))
			break;
		if (until->exits >= until->most) {
			r = 1;
			break;
		}
	}
	return kvmh_leave(run, &before, r);
}

/* This machine's time stamp counter, which an emulated processor reads as its own. */
static uint64_t kvmh_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* ------------------------------------------------------------------ who runs a vCPU
 *
 * One thread at a time: the kernel makes a second KVM_RUN wait in a way that only a fatal signal ends.
 * The lock is held for a moment, never across an ioctl nor while Python code runs.
 */
#define KVMH_IO_BYTES 64

struct kvmh_io {
	uint8_t direction;
	uint8_t size;
	uint16_t port;
	uint32_t count;
	uint64_t data_offset;
	uint8_t data[KVMH_IO_BYTES];
};

struct kvmh_vcpu {
	struct kvm_run *run;
	uint64_t run_size;
	int fd; /* -1: closed */
	int running_in;
	int kicked;
	int64_t deadline;
	struct kvmh_io io;
	pthread_mutex_t lock;
};

static void kvmh_open_vcpu(struct kvmh_vcpu *vcpu, int fd, struct kvm_run *run, uint64_t run_size)
{
	pthread_mutex_init(&vcpu->lock, NULL);
	vcpu->fd = fd;
	vcpu->run = run;
	vcpu->run_size = run_size;
}

/* What says, in KVM_RUN's place, why a vCPU can't be claimed. */
enum { KVMH_CLOSED = 2, KVMH_BUSY = 3 };

/* The calling thread runs it from now on, if this is 0. */
static int kvmh_claim(struct kvmh_vcpu *vcpu)
{
	int tid = kvmh_thread_id(), r = 0;

	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->fd < 0)
		r = KVMH_CLOSED;
	else if (vcpu->running_in)
		r = KVMH_BUSY;
	else
		vcpu->running_in = tid;
	pthread_mutex_unlock(&vcpu->lock);
	return r;
}

/* The calling thread no longer runs it, if it did. */
static void kvmh_release(struct kvmh_vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->running_in == kvmh_thread_id())
		vcpu->running_in = 0;
	pthread_mutex_unlock(&vcpu->lock);
}

/* Make the thread that runs it leave KVM_RUN, or its next KVM_RUN return at once. */
static void kvmh_kick(struct kvmh_vcpu *vcpu)
{
	/* The thread may not have come to its first run: unhandled, the signal would end us. */
	pthread_once(&kvmh_run_once, kvmh_prepare);
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->fd >= 0) {
		vcpu->kicked = 1;
		vcpu->run->immediate_exit = 1;
		/* Under the lock: the thread can't end between the look and the signal. */
		if (vcpu->running_in)
			syscall(SYS_tgkill, getpid(), vcpu->running_in, KVMH_SIGNAL);
	}
	pthread_mutex_unlock(&vcpu->lock);
}

/* Whether it was kicked, which it then is no longer. */
static int kvmh_take_kick(struct kvmh_vcpu *vcpu)
{
	int kicked;

	pthread_mutex_lock(&vcpu->lock);
	kicked = vcpu->kicked;
	vcpu->kicked = 0;
	if (kicked)
		vcpu->run->immediate_exit = 0;
	pthread_mutex_unlock(&vcpu->lock);
	return kicked;
}

/* Nobody runs it any more, nor writes to its run page. The thread that runs it, if one does. */
static int kvmh_close_vcpu(struct kvmh_vcpu *vcpu)
{
	int tid;

	pthread_mutex_lock(&vcpu->lock);
	tid = vcpu->running_in;
	if (!tid)
		vcpu->fd = -1;
	pthread_mutex_unlock(&vcpu->lock);
	return tid;
}

/*
 * As kvmh_run(), by the thread that has claimed it. 1: an IN or OUT, which is copied to vcpu->io, and
 * the thread no longer runs it: what a guest exits for most takes one call. It does after all else.
 */
static int64_t kvmh_run_on(struct kvmh_vcpu *vcpu, int64_t timeout_ns)
{
	struct kvm_run *run = vcpu->run;
	int64_t r = kvmh_run(vcpu->fd, run, timeout_ns);
	uint64_t size, offset;

	if (r || run->exit_reason != KVM_EXIT_IO)
		return r;
	size = (uint64_t)run->io.size * run->io.count;
	offset = run->io.data_offset;
	if (size > KVMH_IO_BYTES || offset > vcpu->run_size || size > vcpu->run_size - offset)
		return 0;
	vcpu->io.direction = run->io.direction;
	vcpu->io.size = run->io.size;
	vcpu->io.port = run->io.port;
	vcpu->io.count = run->io.count;
	vcpu->io.data_offset = offset;
	memcpy(vcpu->io.data, (const char *)run + offset, size);
	kvmh_release(vcpu);
	return 1;
}

/*
 * kvmh_claim(), and kvmh_run_on() for a slice of what there is. A century is for ever, and so is more.
 *
 * The longest one KVM_RUN lasts is a slice: a Ctrl-C that arrives after the interpreter last looked and
 * before the kernel is entered interrupts nothing, and is seen when the slice ends.
 */
#define KVMH_SLICE_NS 250000000L
#define KVMH_FOREVER 3.2e9

static int64_t kvmh_run_vcpu(struct kvmh_vcpu *vcpu, double seconds)
{
	int64_t timeout_ns = INT64_MAX / 2;
	struct timespec now;
	int r = kvmh_claim(vcpu);

	if (r)
		return r;
	if (!(seconds >= KVMH_FOREVER)) /* no number is no time at all */
		timeout_ns = seconds > 1e-9 ? (int64_t)(seconds * 1e9) : 1;
	clock_gettime(CLOCK_MONOTONIC, &now);
	vcpu->deadline = now.tv_sec * 1000000000L + now.tv_nsec + timeout_ns;
	return kvmh_run_on(vcpu, timeout_ns < KVMH_SLICE_NS ? timeout_ns : KVMH_SLICE_NS);
}

/* ------------------------------------------------------------------ guarded copies
 *
 * A load or store to a guest_memfd page that is private to the guest raises SIGBUS. The handler
 * jumps back here when the fault lies inside a guarded range of this thread, and otherwise hands the
 * signal to whoever had it before. Copies go page by page, so that `copied` is exact to the page
 * and what was copied before a fault is whole.
 */
#define KVMH_PAGE 4096UL

struct kvmh_copy {
	uint64_t copied;
	uint64_t fault_address;
	int signal;
	int code;
};

static __thread sigjmp_buf kvmh_guard;
static __thread volatile sig_atomic_t kvmh_guarded;
static __thread volatile uintptr_t kvmh_guard_start[2], kvmh_guard_end[2];
static __thread siginfo_t kvmh_fault;
static struct sigaction kvmh_before_bus, kvmh_before_segv;
static pthread_mutex_t kvmh_handler_lock = PTHREAD_MUTEX_INITIALIZER;

static void kvmh_on_fault(int signal, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	struct sigaction *before = signal == SIGBUS ? &kvmh_before_bus : &kvmh_before_segv;
	int i;

	(void)context;
	/* SI_KERNEL: a non-canonical address is a #GP, which comes without the address. */
	if (kvmh_guarded && info->si_code > 0)
		for (i = 0; i < 2; i++)
			if (info->si_code == SI_KERNEL ||
			    (address >= kvmh_guard_start[i] && address < kvmh_guard_end[i])) {
				kvmh_guarded = 0;
				kvmh_fault = *info;
				siglongjmp(kvmh_guard, 1);
			}
	/*
	 * Not ours: put back what was there and return, so that the instruction faults again into
	 * it. What is put back is used once: a handler that chains to us ends in the default.
	 */
	sigaction(signal, before, NULL);
	memset(before, 0, sizeof(*before));
	before->sa_handler = SIG_DFL;
	if (info->si_code <= 0)
		raise(signal); /* sent, not faulted: it will not come again by itself */
}

/* pytest's faulthandler and others install their own handlers at any time: look each time. */
static void kvmh_install_handler(int signal, struct sigaction *before)
{
	struct sigaction now, action;

	sigaction(signal, NULL, &now);
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == kvmh_on_fault)
		return;
	memset(&action, 0, sizeof(action));
	action.sa_sigaction = kvmh_on_fault;
	/*
	 * NODEFER, so that jumping out of the handler leaves no signal blocked. ONSTACK, so that a
	 * stack overflow still reaches the handler before ours (faulthandler has such a stack).
	 */
	action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	sigemptyset(&action.sa_mask);
	pthread_mutex_lock(&kvmh_handler_lock);
	*before = now;
	sigaction(signal, &action, NULL);
	pthread_mutex_unlock(&kvmh_handler_lock);
}

static int kvmh_canonical(const volatile void *address)
{
	/* User addresses end at 2^47, or 2^56 with 5-level paging. */
	return (uintptr_t)address >> 56 == 0;
}

/* Where a range ends; one that runs past the last address ends there, and not at the first. */
static uintptr_t kvmh_end(const volatile void *start, uint64_t size)
{
	uintptr_t end = (uintptr_t)start + size;

	return end < (uintptr_t)start ? UINTPTR_MAX : end;
}

/*
 * AddressSanitizer's memcpy looks first at its own notes on the memory, and faults there for an address
 * that no process can have, where nobody catches it.
 */
#ifdef __SANITIZE_ADDRESS__
static void kvmh_bytes_copy(void *to, const void *from, uint64_t size)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void kvmh_bytes_fill(void *to, int byte, uint64_t size)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
}
#else
#define kvmh_bytes_copy memcpy
#define kvmh_bytes_fill memset
#endif

/* byte < 0: copy `from`, which may be any address, NULL among them; else fill with the byte. */
static void kvmh_guarded_move(volatile char *to, const volatile char *from, int byte, uint64_t size,
			      struct kvmh_copy *out)
{
	volatile uint64_t done = 0;

	memset(out, 0, sizeof(*out));
	kvmh_install_handler(SIGBUS, &kvmh_before_bus);
	kvmh_install_handler(SIGSEGV, &kvmh_before_segv);
	kvmh_guard_start[0] = (uintptr_t)to;
	kvmh_guard_end[0] = kvmh_end(to, size);
	kvmh_guard_start[1] = (uintptr_t)from;
	kvmh_guard_end[1] = byte < 0 ? kvmh_end(from, size) : 0;
	if (sigsetjmp(kvmh_guard, 0)) {
		out->copied = done;
		out->fault_address = (uintptr_t)kvmh_fault.si_addr;
		if (kvmh_fault.si_code == SI_KERNEL)
			out->fault_address = (uintptr_t)(kvmh_canonical(to) ? from : to) + done;
		out->signal = kvmh_fault.si_signo;
		out->code = kvmh_fault.si_code;
		return;
	}
	kvmh_guarded = 1;
	while (done < size) {
		/* The guarded side is page-aligned in the end; step to the next page of either. */
		uint64_t step = KVMH_PAGE - (((uintptr_t)to + done) & (KVMH_PAGE - 1));
		uint64_t other = KVMH_PAGE - (((uintptr_t)from + done) & (KVMH_PAGE - 1));

		if (byte < 0 && other < step)
			step = other;
		if (step > size - done)
			step = size - done;
		if (byte < 0)
			kvmh_bytes_copy((void *)(to + done), (const void *)(from + done), step);
		else
			kvmh_bytes_fill((void *)(to + done), byte, step);
		done += step;
	}
	kvmh_guarded = 0;
	out->copied = done;
}

static void kvmh_copy(void *to, void *from, uint64_t size, struct kvmh_copy *out)
{
	kvmh_guarded_move(to, from, -1, size, out);
}

static void kvmh_fill(void *to, int byte, uint64_t size, struct kvmh_copy *out)
{
	kvmh_guarded_move(to, NULL, byte & 0xFF, size, out);
}

/* ------------------------------------------------------------------ memory
 *
 * Python's mmap module duplicates the fd it maps, which would keep a guest_memfd alive behind the
 * back of a test about lifetimes, and can't place, protect or punch a mapping.
 */
static int64_t kvmh_mmap(uint64_t address, uint64_t size, int prot, int flags, int fd, int64_t offset)
{
	void *p = mmap((void *)(uintptr_t)address, size, prot, flags, fd, offset);

	return p == MAP_FAILED ? -errno : (int64_t)(uintptr_t)p;
}

static int kvmh_munmap(uint64_t address, uint64_t size)
{
	return (int)kvmh_result(munmap((void *)(uintptr_t)address, size));
}

static int kvmh_mprotect(uint64_t address, uint64_t size, int prot)
{
	return (int)kvmh_result(mprotect((void *)(uintptr_t)address, size, prot));
}

static int kvmh_madvise(uint64_t address, uint64_t size, int advice)
{
	return (int)kvmh_result(madvise((void *)(uintptr_t)address, size, advice));
}

static int kvmh_mlock(uint64_t address, uint64_t size)
{
	return (int)kvmh_result(mlock((void *)(uintptr_t)address, size));
}

/*
 * With MPOL_F_NODE *policy is a node number and there is no mask. The kernel wants room for as many
 * nodes as it could have (1024 at most) and writes all of it; the first 64 are given back.
 */
static int kvmh_get_mempolicy(uint64_t address, unsigned int flags, int *policy, uint64_t *nodemask)
{
	unsigned long mask[16] = { 0 };
	int with_mask = !(flags & 1 /* MPOL_F_NODE */);
	int r = (int)kvmh_result(syscall(SYS_get_mempolicy, policy, with_mask ? mask : NULL,
					 with_mask ? 1024UL : 0UL, (void *)(uintptr_t)address,
					 (unsigned long)flags));

	*nodemask = mask[0];
	return r;
}

static int kvmh_mbind(uint64_t address, uint64_t size, int mode, uint64_t nodemask, unsigned int flags)
{
	unsigned long mask = nodemask;

	return (int)kvmh_result(syscall(SYS_mbind, (void *)(uintptr_t)address, size, mode,
					nodemask ? &mask : NULL, 64UL, flags));
}

static int64_t kvmh_fallocate(int fd, int mode, int64_t offset, int64_t size)
{
	return kvmh_result(fallocate(fd, mode, offset, size));
}
