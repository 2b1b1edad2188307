/* SPDX-License-Identifier: MIT */
/*
 * Not in a released kernel: in-place conversion of guest_memfd, queued for 7.4, absent from 7.3.
 *
 * The structure is that of posting v8 of 18 June 2026, message id
 * 20260618-gmem-inplace-conversion-v8-0-9d2959357853@google.com; 252 is the number in the queue.
 *
 * KVM_SET_MEMORY_ATTRIBUTES2 is taken by the guest_memfd fd, which reads `offset`. It shares 0xd2 with
 * KVM_SET_MEMORY_ATTRIBUTES of the VM fd and differs in direction and size. Postings used 246, 248,
 * 249 and 250 for the capability, all of which a released kernel has since given to something else,
 * and out-of-tree kernels use numbers near it: a capability that answers proves little, an ioctl
 * that does not answer ENOTTY proves more.
 *
 * ci/check_uapi reports these names as queued until a header has them, and compares them from then
 * on. That is the moment to move them to kvm.h.
 */

#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES 252
#define KVM_SET_MEMORY_ATTRIBUTES2 0xc080aed2 /* struct kvm_memory_attributes2 */

struct kvm_memory_attributes2 {
	union {
		__u64 address;
		__u64 offset;
	};
	__u64 size;
	__u64 attributes;
	__u64 flags;
	__u64 error_offset;
	__u64 reserved[11];
};
