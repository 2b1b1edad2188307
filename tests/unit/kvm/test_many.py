# SPDX-License-Identifier: MIT
"""Many ioctls in one go: how many were made, where it ended, and what the slot then holds."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.many import call_many
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, Mapping, map_memory
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vm import Vm

from .fake_kernel import VM_FD, FakeKernel

PAGE = 4096
RANGES = [(number * PAGE, PAGE, 8) for number in range(10)]


def failing(kernel: FakeKernel, name: str, at: int, seen: list[Any]) -> None:
    """Have the ioctl of number `at` fail, and note what all had."""

    def answer(argument: Any) -> int:
        seen.append(ioctl.decode(argument))
        return -errno.EEXIST if len(seen) == at + 1 else 0

    kernel.answers[name] = answer


def test_each_range_is_set_in_order(vm: Vm, kernel: FakeKernel) -> None:
    seen: list[Any] = []
    failing(kernel, "KVM_SET_MEMORY_ATTRIBUTES", 99, seen)
    assert vm.set_memory_attributes_many(RANGES, flags=1) == 10
    assert kernel.fd == VM_FD
    assert seen == [
        {"address": gpa, "size": PAGE, "attributes": 8, "flags": 1} for gpa, _, _ in RANGES
    ]


def test_the_first_failure_ends_it_and_says_where(vm: Vm, kernel: FakeKernel) -> None:
    seen: list[Any] = []
    failing(kernel, "KVM_SET_MEMORY_ATTRIBUTES", 7, seen)
    result = vm.try_.set_memory_attributes_many(iter(RANGES))
    assert (result.errno, result.value, result.written_back) == (errno.EEXIST, None, (7,))
    assert len(seen) == 8
    seen[:] = [None] * 6
    with pytest.raises(KvmError, match=r"address=0x1000, .*1 of 10 before it were done") as raised:
        vm.set_memory_attributes_many(RANGES)
    assert raised.value.result.written_back == (1,)


def test_a_trace_has_an_entry_for_each_go(vm: Vm, kernel: FakeKernel) -> None:
    kernel.answers["KVM_SET_MEMORY_ATTRIBUTES"] = lambda range_: (
        -errno.EIO * (range_.address > PAGE)
    )
    with ioctl.recording() as entries:
        assert not vm.try_.set_memory_attributes_many(RANGES).ok
    (entry,) = entries
    assert (entry["ioctl"], entry["errno"]) == ("KVM_SET_MEMORY_ATTRIBUTES", "EIO")
    assert (entry["before"]["ioctls"], entry["after"]) == (10, {"done": 2})
    assert entry["before"]["first"]["size"] == PAGE


def test_no_range_is_no_ioctl(vm: Vm, kernel: FakeKernel) -> None:
    assert vm.set_memory_attributes_many([]) == 0
    assert kernel.name == ""


def test_a_value_that_does_not_fit_names_its_field(vm: Vm, kernel: FakeKernel) -> None:
    with pytest.raises(OverflowError, match=r"kvm_memory_attributes\.size"):
        vm.set_memory_attributes_many([(0, PAGE, 0), (0, 1 << 64, 0)])
    assert kernel.name == ""


def test_structs_of_another_size_are_refused(vm: Vm, kernel: FakeKernel) -> None:
    with pytest.raises(TypeError, match="takes 32 bytes"):
        call_many(VM_FD, "KVM_SET_MEMORY_ATTRIBUTES", ffi.new("struct kvm_irq_level[2]"))
    assert kernel.name == ""


# ------------------------------------------------------------------ a slot


@pytest.fixture
def memory() -> Mapping:
    return map_memory(4 * PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)


@pytest.mark.parametrize(
    ("fails_at", "done", "holds"), [(99, 6, False), (3, 3, True), (4, 4, False), (0, 0, False)]
)
def test_the_slot_holds_its_memory_while_it_is_set(
    vm: Vm, kernel: FakeKernel, memory: Mapping, fails_at: int, done: int, holds: bool
) -> None:
    seen: list[Any] = []
    failing(kernel, "KVM_SET_USER_MEMORY_REGION", fails_at, seen)
    result = vm.try_.churn_memslot(5, 0x10000, memory.size, memory, 3)
    assert result.written_back == (done,)
    assert [entry["memory_size"] for entry in seen[:4]] == [memory.size, 0, memory.size, 0][
        : len(seen)
    ]
    assert (5 in vm.memslots) == holds
    vm.memslots.let_go()
    memory.close()


def test_what_the_slot_had_stays_if_nothing_was_done(
    vm: Vm, kernel: FakeKernel, memory: Mapping
) -> None:
    vm.set_user_memory_region(5, 0, PAGE, memory)
    kernel.answers["KVM_SET_USER_MEMORY_REGION"] = -errno.EINVAL
    assert not vm.try_.churn_memslot(5, 0, 2 * PAGE, memory, 1).ok
    assert vm.memslots.size_of(5) == PAGE
    vm.memslots.let_go()
    memory.close()


def test_a_guest_memfd_takes_the_second_form(vm: Vm, kernel: FakeKernel, memory: Mapping) -> None:
    assert vm.churn_memslot(5, 0, PAGE, 0x4000, 1, 4, guest_memfd=77, guest_memfd_offset=PAGE) == 2
    assert kernel.name == "KVM_SET_USER_MEMORY_REGION2"
    assert kernel.argument["guest_memfd"] == 77
    assert kernel.argument["guest_memfd_offset"] == PAGE
    memory.close()


# ------------------------------------------------------------------ the shim itself


def test_the_shim_counts_up_to_the_failure() -> None:
    """FIONREAD of a pipe has no size to check, so it goes to the shim directly."""
    reading, writing = (OwnedFd(fd) for fd in os.pipe())
    with reading, writing:
        os.write(writing.fileno(), b"12345")
        answers, done = ffi.new("int[3]"), ffi.new("uint64_t *")
        memory = ffi.cast("char *", answers)
        fionread = 0x541B
        assert lib.kvmh_ioctl_many(reading.fileno(), fionread, memory, 4, 3, 7, done) == 0
        assert (list(answers), done[0]) == ([5, 5, 5], 7)
        done[0] = 0
        assert lib.kvmh_ioctl_many(-1, fionread, memory, 4, 3, 7, done) == -errno.EBADF
        assert done[0] == 0


def test_a_signal_handler_runs_before_the_last_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim comes back after a turn of 50 ms, and goes on where it was."""
    reading, writing = (OwnedFd(fd) for fd in os.pipe())

    class Stop(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stop

    structs = ffi.new("struct kvm_memory_attributes[1]")
    known = ioctl._Known(0x541B)  # FIONREAD
    monkeypatch.setitem(ioctl._known, "KVM_SET_MEMORY_ATTRIBUTES", known)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with reading, writing, pytest.raises(Stop):
            call_many(reading.fileno(), "KVM_SET_MEMORY_ATTRIBUTES", structs, 1 << 40)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
