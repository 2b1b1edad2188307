# SPDX-License-Identifier: MIT
"""A slot with a guest_memfd is immutable: it can be deleted and nothing else.

Source: kvm_set_memory_region, "Private memslots are immutable, they can only be deleted". The
toggle of KVM_MEM_GUEST_MEMFD on a live slot is the bug that 9935df5333aa fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness import GuestMemfd, Vm
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result
from kvmharness.release import running_series

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

GPA = 0xC000_0000
SLOT = 3
GMEM = lib.KVM_MEM_GUEST_MEMFD
SIZE = 4 * PAGE_SIZE
HALF = SIZE // 2

Change = Callable[[Vm, GuestMemfd], Result[int]]

CHANGES: dict[str, Change] = {
    "nothing": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, fd),
    "move": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA + SIZE, HALF, 0, GMEM, fd),
    "move over itself": lambda vm, fd: vm.try_.set_user_memory_region2(
        SLOT, GPA + PAGE_SIZE, HALF, 0, GMEM, fd
    ),
    "move without the flag": lambda vm, fd: vm.try_.set_user_memory_region2(
        SLOT, GPA + SIZE, HALF, 0
    ),
    "grow": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, SIZE, 0, GMEM, fd),
    "shrink": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, PAGE_SIZE, 0, GMEM, fd),
    "offset": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, fd, HALF),
    "userspace_addr": lambda vm, fd: vm.try_.set_user_memory_region2(
        SLOT, GPA, HALF, 1 << 20, GMEM, fd
    ),
    "drop the flag": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, HALF, 0, 0),
    "drop the flag by v1": lambda vm, fd: vm.try_.set_user_memory_region(SLOT, GPA, HALF, 0, 0),
    "read-only": lambda vm, fd: vm.try_.set_user_memory_region2(
        SLOT, GPA, HALF, 0, GMEM | lib.KVM_MEM_READONLY, fd
    ),
    "dirty log": lambda vm, fd: vm.try_.set_user_memory_region2(
        SLOT, GPA, HALF, 0, GMEM | lib.KVM_MEM_LOG_DIRTY_PAGES, fd
    ),
    "dirty log by v1": lambda vm, fd: vm.try_.set_user_memory_region(
        SLOT, GPA, HALF, 0, lib.KVM_MEM_LOG_DIRTY_PAGES
    ),
    "no fd": lambda vm, fd: vm.try_.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, -1),
}


#: A kernel that takes one of these leaves a binding to a freed slot behind: CVE-class corruption.
#: Fixed by 9935df5333aa, in the stable series of 6.18 and in what came later.
TOGGLES = ("drop the flag", "drop the flag by v1")
SAFE_TO_TOGGLE = running_series() >= (6, 18)


def may_corrupt(change: str) -> bool:
    return change in TOGGLES and not SAFE_TO_TOGGLE


@pytest.mark.scenario("gmem.slot.immutable")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=[pytest.mark.destructive] if may_corrupt(change) else [])
        for change in CHANGES
    ],
)
def test_no_change_is_taken_but_deletion(typed_vm: Vm, memfd: GuestMemfd, change: str) -> None:
    typed_vm.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, memfd)
    assert CHANGES[change](typed_vm, memfd).errno_name == "EINVAL"
    typed_vm.set_user_memory_region2(SLOT, 0, 0, 0)


@pytest.mark.scenario("gmem.slot.still_there")
def test_a_refused_change_leaves_slot_and_binding(typed_vm: Vm, memfd: GuestMemfd) -> None:
    typed_vm.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, memfd)
    for name, change in CHANGES.items():
        assert may_corrupt(name) or not change(typed_vm, memfd).ok
    over_gpa = typed_vm.try_.set_user_memory_region2(9, GPA, PAGE_SIZE, 0)
    assert over_gpa.errno_name == "EEXIST"
    over_file = typed_vm.try_.set_user_memory_region2(9, 0, PAGE_SIZE, 0, GMEM, memfd)
    assert not over_file.ok
    moved = typed_vm.try_.set_user_memory_region2(9, GPA + SIZE, PAGE_SIZE, 0)
    assert moved.errno_name == "ok"  # nothing was moved there


@pytest.mark.scenario("gmem.slot.add_flag_to_anonymous")
def test_an_anonymous_slot_can_not_get_a_guest_memfd(typed_vm: Vm, memfd: GuestMemfd) -> None:
    typed_vm.set_user_memory_region(SLOT, GPA, HALF, 0)
    result = typed_vm.try_.set_user_memory_region2(SLOT, GPA, HALF, 0, GMEM, memfd)
    assert result.errno_name == "EINVAL"


@pytest.mark.scenario("gmem.slot.delete")
@pytest.mark.parametrize("form", ["2 with flag", "2 without flag", "1"])
def test_deletion_needs_only_the_number(typed_vm: Vm, memfd: GuestMemfd, form: str) -> None:
    typed_vm.set_user_memory_region2(SLOT, GPA, SIZE, 0, GMEM, memfd)
    if form == "1":
        typed_vm.set_user_memory_region(SLOT, 0, 0, 0)
    else:
        flags = GMEM if form == "2 with flag" else 0
        typed_vm.set_user_memory_region2(SLOT, 0, 0, 0, flags, -1)
    # Both the gpas and the file's pages are free again.
    typed_vm.set_user_memory_region2(SLOT + 1, GPA, SIZE, 0, GMEM, memfd)


@pytest.mark.scenario("gmem.slot.delete_absent")
def test_deleting_what_is_not_there_is_refused(typed_vm: Vm) -> None:
    assert typed_vm.try_.set_user_memory_region2(SLOT, 0, 0, 0, GMEM).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.slot.dirty_log")
def test_it_has_no_dirty_log(plain_vm: Vm) -> None:
    with plain_vm.create_guest_memfd(SIZE) as memfd:
        plain_vm.set_user_memory_region2(SLOT, GPA, SIZE, 0, GMEM, memfd)
        assert plain_vm.try_.get_dirty_log(SLOT, SIZE // PAGE_SIZE).errno_name == "ENOENT"
