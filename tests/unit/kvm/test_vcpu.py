# SPDX-License-Identifier: MIT
"""How run() turns what KVM_RUN returned into exits and errors, and keeps kicks and deadlines.

KVM_RUN is fake by a list of steps; the vCPU's fd is a memfd, so that it can be mapped.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError, RunTimeout
from kvmharness.kvm import ioctl
from kvmharness.kvm.exits import HltExit, InterruptedExit, IoExit, MemoryFaultExit, MmioExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vcpu import Vcpu

MMAP_SIZE = 12288
Step = Callable[[Any], int] | int


@pytest.fixture
def vcpu() -> Iterator[Vcpu]:
    fd = os.memfd_create("vcpu", os.MFD_CLOEXEC)
    os.truncate(fd, MMAP_SIZE)
    with Vcpu(fd, 0, MMAP_SIZE) as made:
        yield made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What KVM_RUN is to do, call by call: a return value, or a function of struct kvm_run."""
    todo: list[Step] = []

    def run(fd: int, kvm_run: Any, timeout_ns: int) -> int:
        step = todo.pop(0)
        return step(kvm_run) if callable(step) else step

    fake_run(monkeypatch, run)
    return todo


def fake_run(monkeypatch: pytest.MonkeyPatch, run: Callable[[int, Any, int], int]) -> None:
    """Have `run` for KVM_RUN, with the shim's claims, but for its way with IoExits."""

    def run_on(state: Any, timeout_ns: int) -> int:
        return run(state.fd, state.run, timeout_ns)

    def run_vcpu(state: Any, seconds: float) -> int:
        left = int(min(seconds, 3.2e9) * 1e9)
        state.deadline = time.monotonic_ns() + left
        return lib.kvmh_claim(state) or run_on(state, min(left, 250_000_000))

    monkeypatch.setattr(ioctl, "run", run)
    monkeypatch.setattr(ioctl, "run_on", run_on)
    monkeypatch.setattr(ioctl, "run_vcpu", run_vcpu)


def exits_with(reason: int, ret: int = 0) -> Callable[[Any], int]:
    def step(kvm_run: Any) -> int:
        kvm_run.exit_reason = reason
        return ret

    return step


def test_an_exit_is_decoded(vcpu: Vcpu, steps: list[Step]) -> None:
    steps.append(exits_with(lib.KVM_EXIT_HLT))
    assert isinstance(vcpu.run(1), HltExit)


def test_an_interruption_by_somebody_else_goes_on(vcpu: Vcpu, steps: list[Step]) -> None:
    steps += [-errno.EINTR, -errno.EINTR, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(1), HltExit)
    assert steps == []


def test_the_end_of_a_slice_is_not_the_deadline(vcpu: Vcpu, steps: list[Step]) -> None:
    steps += [-errno.ETIME, -errno.ETIME, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(60), HltExit)


def test_a_vcpu_that_waits_for_its_start_up_goes_on_when_woken(
    vcpu: Vcpu, steps: list[Step]
) -> None:
    """KVM_RUN of an AP is EAGAIN when INIT and SIPI have come, and runs it the next time."""
    steps += [-errno.EAGAIN, -errno.EAGAIN, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(1), HltExit)
    assert steps == []


def test_a_kick_ends_the_wait_for_the_start_up(vcpu: Vcpu, steps: list[Step]) -> None:
    vcpu.kick()
    steps.append(-errno.EAGAIN)
    assert isinstance(vcpu.run(), InterruptedExit)


def test_without_a_timeout_there_is_no_deadline(
    vcpu: Vcpu, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    decade = 10 * 365 * 86400 * 10**9
    now = iter(range(0, 10 * decade, decade))
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(now))
    steps += [-errno.ETIME, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(), HltExit)
    steps += [-errno.ETIME, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(timeout=None), HltExit)
    steps.append(-errno.ETIME)
    with pytest.raises(RunTimeout):
        vcpu.run(60)


def test_no_slice_is_longer_than_what_is_left(vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def run(fd: int, kvm_run: Any, timeout_ns: int) -> int:
        given.append(timeout_ns)
        time.sleep(max(timeout_ns, 0) / 1e9)
        return -errno.ETIME

    fake_run(monkeypatch, run)
    with pytest.raises(RunTimeout):
        vcpu.run(0.3)
    assert given[0] == 250_000_000
    assert len(given) >= 2
    assert all(timeout <= 50_000_000 for timeout in given[1:])


def test_a_timeout_names_the_vcpu_and_the_seconds(vcpu: Vcpu, steps: list[Step]) -> None:
    steps.append(-errno.ETIME)
    with pytest.raises(RunTimeout, match=r"vCPU 0 did not exit within 1e-09 s"):
        vcpu.run(1e-9)


def test_a_timeout_of_a_vcpu_that_was_never_started_says_so(
    vcpu: Vcpu, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(fd: int, request: int, argument: Any) -> int:
        assert request == lib.KVM_GET_MP_STATE
        argument.mp_state = lib.KVM_MP_STATE_UNINITIALIZED
        return 0

    monkeypatch.setattr(ioctl, "_issue", answer)
    steps.append(-errno.ETIME)
    with pytest.raises(RunTimeout, match="within 1e-09 s: it waits for INIT and SIPI from another"):
        vcpu.run(1e-9)


@pytest.mark.parametrize("number", [errno.EFAULT, 133])
def test_a_memory_fault_comes_with_an_errno(vcpu: Vcpu, steps: list[Step], number: int) -> None:
    steps.append(exits_with(lib.KVM_EXIT_MEMORY_FAULT, -number))
    exit_ = vcpu.run(1)
    assert isinstance(exit_, MemoryFaultExit)
    assert exit_.errno == number


def test_an_efault_without_the_exit_is_an_error(vcpu: Vcpu, steps: list[Step]) -> None:
    """What is left in kvm_run from an earlier exit must not be taken for this one's."""
    steps.append(exits_with(lib.KVM_EXIT_IO, -errno.EFAULT))
    with pytest.raises(KvmError, match="KVM_RUN failed: EFAULT"):
        vcpu.run(1)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOEXEC])
def test_other_failures_are_errors(vcpu: Vcpu, steps: list[Step], number: int) -> None:
    steps.append(exits_with(lib.KVM_EXIT_MEMORY_FAULT, -number))
    with pytest.raises(KvmError) as failed:
        vcpu.run(1)
    assert failed.value.errno == number
    assert failed.value.result.name == "KVM_RUN"


def test_a_failure_says_where_the_guest_was_and_what_the_errno_means_here(
    vcpu: Vcpu, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(fd: int, request: int, argument: Any) -> int:
        if request == lib.KVM_GET_REGS:
            argument.rip = 0x1234
        elif request == lib.KVM_GET_SREGS:
            argument.cs.base = 0xF0000
        else:
            assert request == lib.KVM_TRANSLATE
            assert argument.linear_address == 0xF1234
            argument.physical_address, argument.valid = 0x5234, 1
        return 0

    monkeypatch.setattr(ioctl, "_issue", answer)
    steps.append(exits_with(lib.KVM_EXIT_IO, -errno.EFAULT))
    with pytest.raises(KvmError) as failed:
        vcpu.run(1)
    assert str(failed.value) == (
        "KVM_RUN failed: EFAULT (the guest touched a memslot whose memory the host can't reach: "
        "unmapped, protected, cut off by the end of its file, or its guest_memfd is closed); "
        "vCPU 0, rip 0x1234 (gpa 0x5234)"
    )

    def faulted(kvm_run: Any) -> int:
        kvm_run.exit_reason = lib.KVM_EXIT_MEMORY_FAULT
        kvm_run.memory_fault.gpa, kvm_run.memory_fault.size = 0x7000, 0x1000
        return -errno.EIO

    steps.append(faulted)
    with pytest.raises(KvmError, match=r"the last fault at gpa 0x7000 \(size 0x1000\)"):
        vcpu.run(1)


def test_where_nothing_is_known_of_the_guest_the_vcpu_is_named(
    vcpu: Vcpu, steps: list[Step]
) -> None:
    steps.append(-errno.EINVAL)  # and KVM_GET_REGS is ENOTTY on a file
    with pytest.raises(KvmError, match=r"its launch is not finished .*; vCPU 0$"):
        vcpu.run(1)


# ------------------------------------------------------------------ kicks


def test_a_kick_before_the_run_sets_immediate_exit(vcpu: Vcpu, steps: list[Step]) -> None:
    vcpu.kick()
    assert vcpu.kvm_run.immediate_exit == 1
    steps.append(-errno.EINTR)
    assert isinstance(vcpu.run(1), InterruptedExit)
    assert vcpu.kvm_run.immediate_exit == 0


def test_a_kick_that_an_exit_overtakes_ends_the_next_run(vcpu: Vcpu, steps: list[Step]) -> None:
    def kicked_meanwhile(kvm_run: Any) -> int:
        vcpu.kick()
        kvm_run.exit_reason = lib.KVM_EXIT_HLT
        return 0

    steps += [kicked_meanwhile, -errno.EINTR, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(1), HltExit)
    assert vcpu.kvm_run.immediate_exit == 1
    assert isinstance(vcpu.run(1), InterruptedExit)
    assert isinstance(vcpu.run(1), HltExit)


def test_a_kick_at_the_deadline_is_a_kick(vcpu: Vcpu, steps: list[Step]) -> None:
    def kicked_at_the_end(kvm_run: Any) -> int:
        vcpu.kick()
        kvm_run.immediate_exit = 0  # as the deadline's own clearing would
        return -errno.ETIME

    steps += [kicked_at_the_end, exits_with(lib.KVM_EXIT_HLT)]
    assert isinstance(vcpu.run(1e-9), InterruptedExit)
    assert isinstance(vcpu.run(1), HltExit)


# ------------------------------------------------------------------ one thread at a time


def test_a_second_run_is_refused_while_the_first_lasts(vcpu: Vcpu, steps: list[Step]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait(kvm_run: Any) -> int:
        inside.set()
        assert leave.wait(10)
        kvm_run.exit_reason = lib.KVM_EXIT_HLT
        return 0

    steps.append(wait)
    thread = threading.Thread(target=vcpu.run, args=(10,))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(HarnessError, match="is being run by thread"):
        vcpu.run(1)
    with pytest.raises(HarnessError, match="is being run by thread"):
        vcpu.settle()
    leave.set()
    thread.join(10)
    steps.append(exits_with(lib.KVM_EXIT_HLT))
    assert isinstance(vcpu.run(1), HltExit)


def test_closing_waits_for_the_thread_inside(vcpu: Vcpu, steps: list[Step]) -> None:
    inside = threading.Event()
    order: list[str] = []

    def wait(kvm_run: Any) -> int:
        inside.set()
        for _ in range(1000):
            if kvm_run.immediate_exit:  # the kick
                order.append("left")
                return -errno.EINTR
            time.sleep(0.005)
        raise AssertionError("nobody kicked")

    steps.append(wait)
    thread = threading.Thread(target=vcpu.run, args=(10,))
    thread.start()
    assert inside.wait(10)
    vcpu.close()
    order.append("closed")
    thread.join(10)
    assert order == ["left", "closed"]


def test_a_closed_vcpu_runs_no_more(vcpu: Vcpu, steps: list[Step]) -> None:
    vcpu.close()
    with pytest.raises(KvmError, match="EBADF"):
        vcpu.run(1)
    with pytest.raises(KvmError, match="EBADF"):
        vcpu.settle()
    vcpu.kick()


# ------------------------------------------------------------------ answers


def test_answers_go_where_the_kernel_reads_them(vcpu: Vcpu) -> None:
    run = vcpu.kvm_run.pointer
    io = IoExit(lib.KVM_EXIT_IO, False, 0x3F8, 2, 2, b"", 4096)
    vcpu._mapping.write(4096, b"xxxxxx")
    vcpu.complete_io(io, b"123")
    assert vcpu._mapping.read(4096, 6) == b"123\0xx"  # padded, and no more than the access takes
    vcpu.complete_io(MmioExit(lib.KVM_EXIT_MMIO, False, 0, 8, b""), b"12345678")
    assert bytes(run.mmio.data) == b"12345678"
    vcpu.complete_msr(0x1234)
    assert (run.msr.data, run.msr.error) == (0x1234, 0)
    vcpu.complete_msr(error=True)
    assert (run.msr.data, run.msr.error) == (0, 1)
    vcpu.complete_hypercall(2**64 - 1)
    assert run.hypercall.ret == 2**64 - 1


def test_settling_runs_with_immediate_exit_until_interrupted(vcpu: Vcpu, steps: list[Step]) -> None:
    seen: list[int] = []

    def look(ret: int) -> Callable[[Any], int]:
        def step(kvm_run: Any) -> int:
            seen.append(kvm_run.immediate_exit)
            return ret

        return step

    steps += [look(0), look(0), look(-errno.EINTR)]
    vcpu.settle()
    assert seen == [1, 1, 1]
    assert vcpu.kvm_run.immediate_exit == 0
    steps.append(look(-errno.EIO))
    with pytest.raises(KvmError, match="KVM_RUN failed: EIO"):
        vcpu.settle()


def test_settling_keeps_a_kick_for_the_next_run(vcpu: Vcpu, steps: list[Step]) -> None:
    vcpu.kick()
    steps.append(-errno.EINTR)
    vcpu.settle()
    assert vcpu.kvm_run.immediate_exit == 1


# ------------------------------------------------------------------ the shim's own deadline


def test_the_real_ioctl_on_a_file_that_is_no_vcpu(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="KVM_RUN failed: ENOTTY"):
        vcpu.run(5)


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        (0.5, 500_000_000),
        (0, 1),
        (-1, 1),
        (float("nan"), 1),
        (1e9, 10**18),
        (1e300, 2**62 - 1),
        (float("inf"), 2**62 - 1),
    ],
)
def test_the_shim_counts_the_deadline_from_its_own_clock(
    vcpu: Vcpu, seconds: float, left: int
) -> None:
    before = time.monotonic_ns()
    assert lib.kvmh_run_vcpu(vcpu._state, seconds) == -errno.ENOTTY
    after = time.monotonic_ns()
    lib.kvmh_release(vcpu._state)
    assert before + left <= vcpu._state.deadline <= after + left


def test_no_timer_is_left_behind(vcpu: Vcpu) -> None:
    """A thread makes a timer; it counts against RLIMIT_SIGPENDING until the thread ends."""
    returned: list[int] = []

    def run() -> None:
        returned.extend(lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 10**9) for _ in range(3))

    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (min(soft, 1000), hard))
    try:
        for _ in range(1500):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join(10)
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))
    assert returned == [-errno.ENOTTY] * 4500
    assert vcpu.kvm_run.immediate_exit == 0


def test_a_forked_child_has_a_timer_and_a_thread_id_of_its_own(vcpu: Vcpu) -> None:
    assert lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 10**9) == -errno.ENOTTY
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ran = lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 10**9)
            status = 0 if (ran, lib.kvmh_thread_id()) == (-errno.ENOTTY, os.getpid()) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_left_armed(vcpu: Vcpu) -> None:
    """Else the deadline of one run would interrupt what its thread does next."""
    assert lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 20_000_000) == -errno.ENOTTY
    assert signal.sigtimedwait({signal.SIGRTMIN + 5}, 0.1) is None


def test_a_blocked_signal_stays_blocked(vcpu: Vcpu) -> None:
    mine = {signal.SIGRTMIN + 5}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, mine)
    try:
        lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 10**9)
        assert mine <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, mine)
        lib.kvmh_run(vcpu.fileno(), vcpu.kvm_run.pointer, 10**9)
        assert not mine & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------ run_until


def test_a_stretch_on_a_file_that_is_no_vcpu(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="KVM_RUN failed: ENOTTY"):
        vcpu.run_until(5)
    vcpu.close()
    with pytest.raises(KvmError, match="EBADF"):
        vcpu.run_until(5)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"output": [-1]}, "output"),
        ({"output": [1 << 16]}, "output"),
        ({"pass_over": [-1]}, "pass_over"),
        ({"pass_over": [64]}, "pass_over"),
        ({"most": 0}, "most"),
    ],
)
def test_orders_that_have_no_sense(vcpu: Vcpu, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vcpu.run_until(5, **wrong)
