# SPDX-License-Identifier: MIT
"""KVM_CREATE_GUEST_MEMFD: sizes, flags, and what the fd is (virt/kvm/guest_memfd.c)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvmharness import Kvm, Vm, VmType
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.release import running_series

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

LARGEST = 2**63 - PAGE_SIZE


@pytest.mark.scenario("gmem.create.vm_type")
@pytest.mark.parametrize(
    "name", [pytest.param(t.label, marks=pytest.mark.requires_vm_type(t.label)) for t in VmType]
)
def test_each_vm_type_has_guest_memfd(kvm: Kvm, name: str) -> None:
    with kvm.create_vm(VmType.parse(name)) as vm:
        private = vm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES)
        if running_series() < (6, 18) and not private:
            pytest.skip(f"{name} VMs have no private memory, and guest_memfd for others is of 6.18")
        assert vm.check_extension(lib.KVM_CAP_GUEST_MEMFD) == 1
        vm.create_guest_memfd(PAGE_SIZE).close()


@pytest.mark.scenario("gmem.create.size")
@pytest.mark.parametrize(
    "size",
    [PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 2 << 20, 1 << 40, LARGEST],
    ids=["page", "2pages", "3pages", "2MiB", "1TiB", "largest"],
)
def test_size_is_what_stat_says(typed_vm: Vm, memfd_flags: int, size: int) -> None:
    with typed_vm.create_guest_memfd(size, memfd_flags) as memfd:
        stat = os.fstat(memfd.fileno())
        assert stat.st_size == size
        assert stat.st_blksize == PAGE_SIZE
        assert stat.st_blocks == 0  # sparse: nothing is allocated before it is touched


@pytest.mark.scenario("gmem.create.size_zero")
def test_size_zero_is_refused(typed_vm: Vm, memfd_flags: int) -> None:
    assert typed_vm.try_.create_guest_memfd(0, memfd_flags).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.create.size_unaligned")
def test_every_size_within_a_page_is_refused(typed_vm: Vm, memfd_flags: int) -> None:
    accepted = []
    for size in range(1, PAGE_SIZE):
        result = typed_vm.try_.create_guest_memfd(size, memfd_flags)
        if result.errno_name != "EINVAL":
            accepted.append((size, str(result)))
            if result.value:
                result.value.close()
    assert not accepted


@pytest.mark.scenario("gmem.create.size_unaligned_large")
@pytest.mark.parametrize("size", [PAGE_SIZE + 1, (2 << 20) - 1, LARGEST + 1, 2**63 - 1])
def test_unaligned_sizes_above_a_page_are_refused(typed_vm: Vm, size: int) -> None:
    assert typed_vm.try_.create_guest_memfd(size).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.create.size_negative")
@pytest.mark.parametrize("size", [2**63, 2**63 + PAGE_SIZE, 2**64 - PAGE_SIZE], ids=hex)
def test_size_negative_as_an_offset_is_refused(typed_vm: Vm, memfd_flags: int, size: int) -> None:
    assert typed_vm.try_.create_guest_memfd(size, memfd_flags).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.create.every_flag")
def test_each_flag_bit_is_accepted_exactly_if_the_capability_lists_it(typed_vm: Vm) -> None:
    known = typed_vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    wrong = {}
    for bit in range(64):
        result = typed_vm.try_.create_guest_memfd(PAGE_SIZE, 1 << bit)
        if result.value:
            result.value.close()
        if result.errno_name != ("ok" if known >> bit & 1 else "EINVAL"):
            wrong[bit] = str(result)
    assert not wrong, f"KVM_CAP_GUEST_MEMFD_FLAGS is {known:#x}"


@pytest.mark.scenario("gmem.create.flags_combined")
def test_each_set_of_known_flags_is_accepted(typed_vm: Vm) -> None:
    known = typed_vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    subset = known
    while True:  # all subsets of the set bits, the empty one last
        with typed_vm.create_guest_memfd(PAGE_SIZE, subset) as memfd:
            assert memfd.flags == subset
        if not subset:
            break
        subset = (subset - 1) & known


@pytest.mark.scenario("gmem.create.flags_known_and_unknown")
def test_an_unknown_flag_beside_known_ones_is_refused(typed_vm: Vm) -> None:
    known = typed_vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    for bit in (31, 32, 62, 63):
        assert not known >> bit & 1
        result = typed_vm.try_.create_guest_memfd(PAGE_SIZE, known | 1 << bit)
        assert result.errno_name == "EINVAL"


@pytest.mark.scenario("gmem.create.flags_default_vm")
@pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS")
def test_a_default_vm_knows_mmap_and_init_shared(vm: Vm) -> None:
    flags = vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    assert flags & lib.GUEST_MEMFD_FLAG_MMAP
    assert flags & lib.GUEST_MEMFD_FLAG_INIT_SHARED


@pytest.mark.scenario("gmem.create.flags_init_shared_implies_mmap")
def test_init_shared_is_offered_only_with_mmap(typed_vm: Vm) -> None:
    flags = typed_vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    if flags & lib.GUEST_MEMFD_FLAG_INIT_SHARED:
        assert flags & lib.GUEST_MEMFD_FLAG_MMAP


@pytest.mark.scenario("gmem.create.multiple")
def test_two_are_two_files(typed_vm: Vm, memfd_flags: int) -> None:
    with typed_vm.create_guest_memfd(PAGE_SIZE, memfd_flags) as first:
        before = os.fstat(first.fileno())
        with typed_vm.create_guest_memfd(2 * PAGE_SIZE, memfd_flags) as second:
            other = os.fstat(second.fileno())
            again = os.fstat(first.fileno())
    assert (before.st_size, other.st_size, again.st_size) == (PAGE_SIZE, 2 * PAGE_SIZE, PAGE_SIZE)
    assert before.st_ino == again.st_ino
    assert before.st_ino != other.st_ino
    assert before.st_dev == other.st_dev


@pytest.mark.scenario("gmem.create.many")
def test_many_have_inode_numbers_of_their_own(plain_vm: Vm) -> None:
    made = [plain_vm.create_guest_memfd(PAGE_SIZE) for _ in range(64)]
    try:
        inodes = {os.fstat(memfd.fileno()).st_ino for memfd in made}
        assert len(inodes) == len(made)
    finally:
        for memfd in made:
            memfd.close()


@pytest.mark.scenario("gmem.create.is_guest_memfd")
def test_the_fd_says_what_it_is(typed_vm: Vm) -> None:
    with typed_vm.create_guest_memfd(PAGE_SIZE) as memfd:
        assert "kvm-gmem" in os.readlink(f"/proc/self/fd/{memfd.fileno()}")


@pytest.mark.scenario("gmem.create.bad_pointer")
def test_a_bad_pointer_is_efault(plain_vm: Vm) -> None:
    for address in (0, 1, 2**64 - PAGE_SIZE):
        result = raw_ioctl(plain_vm, "KVM_CREATE_GUEST_MEMFD", address)
        assert result.errno_name == "EFAULT"


@pytest.mark.scenario("gmem.create.wrong_fd")
def test_other_kvm_fds_do_not_take_it(kvm: Kvm, plain_vm: Vm) -> None:
    arguments = ffi.new("struct kvm_create_guest_memfd *")
    arguments.size = PAGE_SIZE
    with plain_vm.create_vcpu(0) as vcpu, plain_vm.create_guest_memfd(PAGE_SIZE) as memfd:
        outcomes = {
            "/dev/kvm": ioctl.call(kvm.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments),
            "vcpu": ioctl.call(vcpu.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments),
            "guest_memfd": ioctl.call(memfd.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments),
        }
    # kvm_dev_ioctl and kvm_arch_vcpu_ioctl end in EINVAL; a file without ioctls in ENOTTY.
    names = {where: result.errno_name for where, result in outcomes.items()}
    assert names == {"/dev/kvm": "EINVAL", "vcpu": "EINVAL", "guest_memfd": "ENOTTY"}


@pytest.mark.scenario("gmem.create.reserved_ignored")
def test_reserved_fields_are_not_looked_at(plain_vm: Vm) -> None:
    """kvm_gmem_create() reads size and flags alone: what is stale in a VMM's struct is harmless."""
    arguments = ffi.new("struct kvm_create_guest_memfd *")
    arguments.size = PAGE_SIZE
    for index in range(len(arguments.reserved)):
        arguments.reserved[index] = 2**64 - 1
    result = ioctl.call(plain_vm.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments)
    assert result.ok
    os.close(result.ret)


@pytest.mark.scenario("gmem.create.closed_on_exec")
def test_a_child_program_does_not_inherit_it(plain_vm: Vm) -> None:
    """The kernel makes the fd inheritable; the package does not leave it so."""
    with plain_vm.create_guest_memfd(PAGE_SIZE) as memfd:
        assert not os.get_inheritable(memfd.fileno())
        look = f"import os, sys; sys.exit(os.path.exists('/proc/self/fd/{memfd.fileno()}'))"
        # close_fds=False: what the kernel does at exec, not what subprocess closes itself.
        child = subprocess.run(
            [sys.executable, "-S", "-c", look], close_fds=False, timeout=20, check=False
        )
        assert child.returncode == 0


@pytest.mark.scenario("gmem.create.many_vms")
def test_vms_do_not_share_numbers_or_contents(kvm: Kvm, plain_vm: Vm) -> None:
    with (
        kvm.create_vm() as other_vm,
        plain_vm.create_guest_memfd(PAGE_SIZE) as one,
        other_vm.create_guest_memfd(PAGE_SIZE) as two,
    ):
        assert os.fstat(one.fileno()).st_ino != os.fstat(two.fileno()).st_ino
