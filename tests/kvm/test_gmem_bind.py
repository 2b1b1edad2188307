# SPDX-License-Identifier: MIT
"""Binding a guest_memfd to a slot: KVM_SET_USER_MEMORY_REGION2 with KVM_MEM_GUEST_MEMFD.

Sources: kvm_set_memory_region (virt/kvm/kvm_main.c) and kvm_gmem_bind up to 7.2, from 7.3 on
kvm_gmem_prepare_memory_region and kvm_gmem_commit_memory_region (virt/kvm/guest_memfd.c).
"""

from __future__ import annotations

import os
import tempfile

import pytest

from kvmharness import GuestMemfd, Kvm, Vm
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.result import Result
from kvmharness.suite.promised import hold

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

GPA = 0xC000_0000
SLOT = 10
GMEM = lib.KVM_MEM_GUEST_MEMFD
SIZE = 4 * PAGE_SIZE  # of the memfd fixture


def bind(
    vm: Vm,
    memfd: GuestMemfd | OwnedFd | int,
    offset: int = 0,
    size: int = SIZE,
    *,
    slot: int = SLOT,
    gpa: int = GPA,
    userspace_addr: int = 0,
    flags: int = GMEM,
) -> Result[int]:
    return vm.try_.set_user_memory_region2(slot, gpa, size, userspace_addr, flags, memfd, offset)


def unbind(vm: Vm, slot: int = SLOT) -> None:
    vm.set_user_memory_region2(slot, 0, 0, 0, GMEM)


@pytest.mark.scenario("gmem.bind.parts")
def test_any_whole_pages_of_it_can_be_bound(typed_vm: Vm, memfd: GuestMemfd) -> None:
    for first, pages in ((0, 4), (0, 1), (1, 1), (3, 1), (1, 3), (2, 2)):
        result = bind(typed_vm, memfd, first * PAGE_SIZE, pages * PAGE_SIZE)
        assert result.errno_name == "ok", (first, pages)
        unbind(typed_vm)


@pytest.mark.scenario("gmem.bind.past_end_ranges")
def test_past_its_end_is_refused(typed_vm: Vm, memfd: GuestMemfd) -> None:
    for first, pages in ((0, 5), (1, 4), (3, 2), (4, 1), (5, 1), (0, 1 << 19), (1 << 40, 1)):
        result = bind(typed_vm, memfd, first * PAGE_SIZE, pages * PAGE_SIZE)
        assert result.errno_name == "EINVAL", (first, pages)


@pytest.mark.scenario("gmem.bind.offset_unaligned")
def test_every_unaligned_offset_is_refused(typed_vm: Vm, memfd: GuestMemfd) -> None:
    accepted = [
        offset
        for offset in range(1, PAGE_SIZE)
        if bind(typed_vm, memfd, offset, PAGE_SIZE).errno_name != "EINVAL"
    ]
    assert not accepted


@pytest.mark.scenario("gmem.bind.offset_negative")
def test_offset_negative_as_an_loff_t_is_refused(typed_vm: Vm, memfd: GuestMemfd) -> None:
    for offset in (2**63, 2**63 + PAGE_SIZE, 2**64 - SIZE, 2**64 - PAGE_SIZE):
        assert bind(typed_vm, memfd, offset).errno_name == "EINVAL", hex(offset)


@pytest.mark.scenario("gmem.bind.offset_overflow")
@pytest.mark.parametrize("offset", [2**63 - PAGE_SIZE, 2**63 - SIZE])
def test_offset_whose_sum_with_the_size_is_negative(
    typed_vm: Vm, memfd: GuestMemfd, offset: int
) -> None:
    """The kernel bug of 6.8 to 7.1.3: such a slot lies wholly past the end of its file."""
    hold(bind(typed_vm, memfd, offset), "gmem.bind.overflow", 1, offset=hex(offset))


@pytest.mark.scenario("gmem.bind.wrong_fd")
def test_other_fds_are_refused(kvm: Kvm, typed_vm: Vm) -> None:
    outcomes = {
        "/dev/kvm": bind(typed_vm, kvm.fileno(), 0, PAGE_SIZE),
        "the VM": bind(typed_vm, typed_vm.fileno(), 0, PAGE_SIZE),
    }
    with OwnedFd(os.memfd_create("not-a-guest_memfd")) as other:
        os.truncate(other.fileno(), SIZE)
        outcomes["memfd"] = bind(typed_vm, other, 0, PAGE_SIZE)
    with OwnedFd(os.eventfd(0)) as other:
        outcomes["eventfd"] = bind(typed_vm, other, 0, PAGE_SIZE)
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        outcomes["file"] = bind(typed_vm, file.fileno(), 0, PAGE_SIZE)
    reader, writer = os.pipe()
    outcomes["pipe"] = bind(typed_vm, reader, 0, PAGE_SIZE)
    os.close(reader)
    os.close(writer)
    assert {result.errno_name for result in outcomes.values()} == {"EINVAL"}, outcomes


@pytest.mark.scenario("gmem.bind.vcpu_fd")
def test_a_vcpu_is_refused(vm: Vm) -> None:
    with vm.create_vcpu(0) as vcpu:
        assert bind(vm, vcpu, 0, PAGE_SIZE).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.bind.bad_fd")
def test_no_fd_at_all_is_ebadf(typed_vm: Vm) -> None:
    for fd in (-1, 2**31 - 1, 1_000_000):
        assert bind(typed_vm, fd, 0, PAGE_SIZE).errno_name == "EBADF", fd


@pytest.mark.scenario("gmem.bind.closed_fd")
def test_a_closed_guest_memfd_is_ebadf(typed_vm: Vm, memfd: GuestMemfd) -> None:
    number = memfd.fileno()
    memfd.close()
    assert bind(typed_vm, number, 0, PAGE_SIZE).errno_name == "EBADF"


@pytest.mark.scenario("gmem.bind.other_vm_usable")
def test_another_vms_is_refused_and_stays_usable_there(
    kvm: Kvm, typed_vm: Vm, memfd: GuestMemfd
) -> None:
    with kvm.create_vm(typed_vm.vm_type) as other:
        assert bind(other, memfd).errno_name == "EINVAL"
        assert bind(typed_vm, memfd).errno_name == "ok"


@pytest.mark.scenario("gmem.bind.flag_missing")
def test_without_the_flag_the_fd_is_not_looked_at(plain_vm: Vm) -> None:
    assert bind(plain_vm, -1, 0, PAGE_SIZE, flags=0).errno_name == "ok"


@pytest.mark.scenario("gmem.bind.every_flag")
def test_no_other_flag_goes_with_it(typed_vm: Vm, memfd: GuestMemfd) -> None:
    """READONLY and LOG_DIRTY_PAGES among them (check_memory_region_flags)."""
    wrong = {}
    for bit in range(32):
        if 1 << bit != GMEM:
            result = bind(typed_vm, memfd, flags=GMEM | 1 << bit)
            if result.errno_name != "EINVAL":
                wrong[bit] = str(result)
    assert not wrong


@pytest.mark.scenario("gmem.bind.range")
def test_what_holds_for_every_slot_holds_for_this(typed_vm: Vm, memfd: GuestMemfd) -> None:
    refused = {
        "gpa unaligned": bind(typed_vm, memfd, gpa=GPA + 1),
        "gpa + size wraps": bind(typed_vm, memfd, gpa=2**64 - PAGE_SIZE),
        "gpa too high": bind(typed_vm, memfd, 0, PAGE_SIZE, gpa=1 << 62),
        "size unaligned": bind(typed_vm, memfd, size=PAGE_SIZE + 1),
        "userspace_addr unaligned": bind(typed_vm, memfd, userspace_addr=1),
        "userspace_addr the kernel's": bind(typed_vm, memfd, userspace_addr=1 << 63),
        "slot": bind(typed_vm, memfd, slot=0xFFFF),
        "address space": bind(typed_vm, memfd, slot=0xFF << 16),
    }
    assert {result.errno_name for result in refused.values()} == {"EINVAL"}, refused
    assert bind(typed_vm, memfd).errno_name == "ok"


@pytest.mark.scenario("gmem.bind.padding")
def test_padding_is_not_looked_at(plain_vm: Vm) -> None:
    with plain_vm.create_guest_memfd(SIZE) as memfd:
        region = ffi.new("struct kvm_userspace_memory_region2 *")
        region.slot = SLOT
        region.flags = GMEM
        region.guest_phys_addr = GPA
        region.memory_size = SIZE
        region.guest_memfd = memfd.fileno()
        region.pad1 = 2**32 - 1
        for index in range(len(region.pad2)):
            region.pad2[index] = 2**64 - 1
        result = ioctl.call(plain_vm.fileno(), "KVM_SET_USER_MEMORY_REGION2", region)
        assert result.errno_name == "ok"


@pytest.mark.scenario("gmem.bind.bad_pointer")
def test_a_bad_pointer_is_efault(plain_vm: Vm) -> None:
    for address in (0, 2**64 - PAGE_SIZE):
        result = raw_ioctl(plain_vm, "KVM_SET_USER_MEMORY_REGION2", address)
        assert result.errno_name == "EFAULT"


@pytest.mark.scenario("gmem.bind.v1")
def test_the_first_form_does_not_take_the_flag(typed_vm: Vm) -> None:
    result = typed_vm.try_.set_user_memory_region(SLOT, GPA, SIZE, 0, GMEM)
    assert result.errno_name == "EINVAL"


# ------------------------------------------------------------------ several slots


@pytest.mark.scenario("gmem.bind.several")
def test_a_slot_for_each_page(typed_vm: Vm, memfd: GuestMemfd) -> None:
    """In an order that is not the file's, at gpas that are not either."""
    for slot, page in enumerate((2, 0, 3, 1)):
        gpa = GPA + (7 - 2 * slot) * PAGE_SIZE
        result = bind(typed_vm, memfd, page * PAGE_SIZE, PAGE_SIZE, slot=slot, gpa=gpa)
        assert result.errno_name == "ok"


@pytest.mark.scenario("gmem.bind.several_files")
def test_slots_of_several_guest_memfds(plain_vm: Vm) -> None:
    with (
        plain_vm.create_guest_memfd(SIZE) as one,
        plain_vm.create_guest_memfd(SIZE) as two,
    ):
        assert bind(plain_vm, one, slot=1, gpa=GPA).ok
        assert bind(plain_vm, two, slot=2, gpa=GPA + SIZE).ok


@pytest.mark.scenario("gmem.bind.overlap_shapes")
def test_a_page_bound_twice_is_refused(typed_vm: Vm, memfd: GuestMemfd) -> None:
    """The middle two pages are bound: ranges inside, at the front and back, around."""
    elsewhere = GPA + (1 << 20)
    assert bind(typed_vm, memfd, PAGE_SIZE, 2 * PAGE_SIZE, slot=1).ok
    for first, pages in ((1, 2), (0, 2), (1, 1), (2, 2), (2, 1), (0, 4), (0, 3)):
        again = bind(typed_vm, memfd, first * PAGE_SIZE, pages * PAGE_SIZE, slot=2, gpa=elsewhere)
        hold(again, "gmem.bind.overlap", 2, first=first, pages=pages)
    # The refusals left nothing behind: what is free can still be bound.
    assert bind(typed_vm, memfd, 0, PAGE_SIZE, slot=2, gpa=elsewhere).ok
    assert bind(typed_vm, memfd, 3 * PAGE_SIZE, PAGE_SIZE, slot=3, gpa=GPA + (2 << 20)).ok


@pytest.mark.scenario("gmem.bind.overlap_after_delete")
def test_a_slot_made_anew_must_not_overlap_either(typed_vm: Vm, memfd: GuestMemfd) -> None:
    half = SIZE // 2
    assert bind(typed_vm, memfd, 0, half, slot=1, gpa=GPA).ok
    assert bind(typed_vm, memfd, half, half, slot=2, gpa=2 * GPA).ok
    typed_vm.set_user_memory_region2(1, GPA, 0, 0, GMEM, -1)
    for page in (1, 2):
        again = bind(typed_vm, memfd, page * PAGE_SIZE, half, slot=1, gpa=GPA)
        hold(again, "gmem.bind.overlap", 2, first_page=page)
    assert bind(typed_vm, memfd, 0, half, slot=1, gpa=GPA).ok


@pytest.mark.scenario("gmem.bind.overlap_gpa_offsets")
def test_overlapping_gpas_are_eexist(typed_vm: Vm, memfd: GuestMemfd) -> None:
    """On every kernel, whether or not the ranges of the file overlap as well."""
    half = SIZE // 2
    assert bind(typed_vm, memfd, half, half, slot=1).ok
    for pages in (-1, 0, 1):
        over = bind(typed_vm, memfd, 0, half, slot=2, gpa=GPA + pages * PAGE_SIZE)
        assert over.errno_name == "EEXIST", pages


@pytest.mark.scenario("gmem.bind.overlap_gpa_anonymous")
def test_overlapping_an_anonymous_slot_is_eexist(typed_vm: Vm, memfd: GuestMemfd) -> None:
    typed_vm.set_user_memory_region(1, GPA, SIZE, 0)
    assert bind(typed_vm, memfd).errno_name == "EEXIST"


@pytest.mark.scenario("gmem.bind.rebind")
def test_delete_and_bind_again_many_times(typed_vm: Vm, memfd: GuestMemfd) -> None:
    for turn in range(50):
        assert bind(typed_vm, memfd, gpa=GPA + turn * PAGE_SIZE).ok
        unbind(typed_vm)


@pytest.mark.scenario("gmem.bind.after_close_of_vm_number")
def test_binding_needs_the_vm_that_made_it_not_its_fd(kvm: Kvm) -> None:
    """A VM opened later, even under the same fd number, is another VM."""
    first = kvm.create_vm()
    number = first.fileno()
    if not first.check_extension(lib.KVM_CAP_GUEST_MEMFD):
        first.close()
        pytest.skip("default VMs have no guest_memfd on this kernel")
    with first.create_guest_memfd(SIZE) as memfd:
        first.close()
        with kvm.create_vm() as second:
            assert second.fileno() == number
            assert bind(second, memfd).errno_name == "EINVAL"
