/* SPDX-License-Identifier: MIT */
/* What cdefs/shim.h offers to Python beside the kernel's own declarations. */

int64_t kvmh_ioctl(int fd, unsigned long request, void *arg);
int64_t kvmh_ioctl_value(int fd, unsigned long request, unsigned long arg);

int64_t kvmh_ioctl_many(int fd, unsigned long request, char *structs, uint64_t size,
			uint64_t distinct, uint64_t count, uint64_t *done);
int64_t kvmh_populate_many(int fd, char *command, uint64_t data_at, char *structs, uint64_t size,
			   uint64_t left_at, uint64_t count, uint64_t *progress);

int64_t kvmh_run(int fd, struct kvm_run *run, int64_t timeout_ns);

struct kvmh_until {
	uint8_t *ports;		/* a bit for each of the 65536: their output is kept */
	uint64_t passed_over;	/* a bit for each exit reason */
	uint64_t most;		/* exits to make */
	uint64_t exits;		/* made so far */
	uint8_t *output;
	uint64_t room;		/* bytes at output, and how many of them are used */
	uint64_t used;
};
int64_t kvmh_run_until(int fd, struct kvm_run *run, uint64_t run_size, int64_t timeout_ns,
		       struct kvmh_until *until);
int kvmh_thread_id(void);

uint64_t kvmh_tsc(void);

struct kvmh_io {
	uint8_t direction;
	uint8_t size;
	uint16_t port;
	uint32_t count;
	uint64_t data_offset;
	uint8_t data[64];
};
struct kvmh_vcpu {
	struct kvm_run *run;
	uint64_t run_size;
	int fd;
	int running_in;		/* the thread that runs it, 0 for none */
	int kicked;
	int64_t deadline;	/* of the run that kvmh_run_vcpu() began: CLOCK_MONOTONIC, nanoseconds */
	struct kvmh_io io;	/* the last IN or OUT */
	...;
};
void kvmh_open_vcpu(struct kvmh_vcpu *vcpu, int fd, struct kvm_run *run, uint64_t run_size);
enum { KVMH_CLOSED, KVMH_BUSY, ... };
int kvmh_claim(struct kvmh_vcpu *vcpu);
void kvmh_release(struct kvmh_vcpu *vcpu);
void kvmh_kick(struct kvmh_vcpu *vcpu);
int kvmh_take_kick(struct kvmh_vcpu *vcpu);
int kvmh_close_vcpu(struct kvmh_vcpu *vcpu);
int64_t kvmh_run_vcpu(struct kvmh_vcpu *vcpu, double seconds);
int64_t kvmh_run_on(struct kvmh_vcpu *vcpu, int64_t timeout_ns);

struct kvmh_copy {
	uint64_t copied;	/* bytes copied before the fault */
	uint64_t fault_address;	/* si_addr, 0 when nothing faulted */
	int signal;		/* SIGBUS, SIGSEGV, or 0 */
	int code;		/* si_code */
};
void kvmh_copy(void *to, void *from, uint64_t size, struct kvmh_copy *out);
void kvmh_fill(void *to, int byte, uint64_t size, struct kvmh_copy *out);

int64_t kvmh_mmap(uint64_t address, uint64_t size, int prot, int flags, int fd, int64_t offset);
int kvmh_munmap(uint64_t address, uint64_t size);
int kvmh_mprotect(uint64_t address, uint64_t size, int prot);
int kvmh_madvise(uint64_t address, uint64_t size, int advice);
int kvmh_mlock(uint64_t address, uint64_t size);
int kvmh_get_mempolicy(uint64_t address, unsigned int flags, int *policy, uint64_t *nodemask);
int kvmh_mbind(uint64_t address, uint64_t size, int mode, uint64_t nodemask, unsigned int flags);
int64_t kvmh_fallocate(int fd, int mode, int64_t offset, int64_t size);
