# SPDX-License-Identifier: MIT
"""run() always ends: at its deadline, by a kick, by a signal, or because the vCPU is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kvmharness import HarnessError, KvmError, Machine, RunTimeout, VmBuilder
from kvmharness.kvm.exits import InterruptedExit, IoExit
from kvmharness.machine import payload
from kvmharness.machine.payload import Mode, Payload
from kvmharness.machine.running import run_payload

#: How late a deadline may be noticed on a busy machine.
SLACK = 2.0
MODES = [("spin", "long-cpl0"), ("spin", "long-cpl3"), ("spin16", "real")]


@pytest.fixture
def builder(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    return vm_builder().memory(0, 1 << 20, "anonymous")


@pytest.fixture
def spinning(builder: VmBuilder) -> Iterator[Machine]:
    with builder.payload("spin").build() as machine:
        yield machine


@pytest.mark.scenario("run.deadline.spin")
@pytest.mark.parametrize(("name", "mode"), MODES)
@pytest.mark.parametrize("seconds", [0.05, 0.4])  # within one KVM_RUN, and over several
def test_a_guest_that_never_exits_ends_at_the_deadline(
    builder: VmBuilder, name: str, mode: str, seconds: float
) -> None:
    with builder.payload(name, mode).build() as machine:
        began = time.monotonic()
        with pytest.raises(RunTimeout, match="did not exit within"):
            machine.vcpus[0].run(seconds)
        assert seconds <= time.monotonic() - began < seconds + SLACK


@pytest.mark.scenario("run.deadline.says_where")
def test_the_timeout_says_where_the_guest_is(spinning: Machine) -> None:
    with pytest.raises(RunTimeout, match="rip 0x10000"):
        spinning.run(0.05)


@pytest.mark.scenario("run.deadline.none_left")
@pytest.mark.parametrize("seconds", [0, -1, 1e-9])
def test_no_time_is_a_timeout_at_once(spinning: Machine, seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(RunTimeout):
        spinning.vcpus[0].run(seconds)
    assert time.monotonic() - began < SLACK


@pytest.mark.scenario("run.deadline.halted")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
def test_a_halt_inside_the_kernel_ends_at_the_deadline(builder: VmBuilder) -> None:
    """With an in-kernel interrupt controller HLT waits in KVM_RUN, for ever if nothing comes."""
    builder.before_vcpus(lambda machine: machine.create_irqchip())
    with builder.payload("hello16").build() as machine:
        assert machine.run().status == 0
        with pytest.raises(RunTimeout):
            machine.vcpus[0].run(0.05)


@pytest.mark.scenario("run.deadline.after_timeout")
def test_a_vcpu_runs_on_after_a_timeout(builder: VmBuilder) -> None:
    with builder.payload("ticker", counter=0x8_0000).build() as machine:
        for _ in range(3):
            with pytest.raises(RunTimeout):
                machine.run(0.02)
        machine.enter("hello")
        assert machine.run().status == 0


@pytest.mark.scenario("run.deadline.over_all_exits")
def test_the_deadline_counts_all_exits_of_a_payload(builder: VmBuilder) -> None:
    """A guest that writes to the console for ever: each run is short, their sum is not."""
    chatter = Payload(
        name="chatter",
        description="mov $0x3f8, %dx; again: out %al, %dx; jmp again",
        path=payload.load("hello16").path,
        image=b"\xba\xf8\x03\xee\xeb\xfd",
        sha256="",
        load_gpa=0x1000,
        entry=0x1000,
        modes=(Mode.REAL,),
        arguments=(),
        expected_exits=("IO",),
        reports=(),
        console=None,
    )
    with builder.payload(chatter).build() as machine:
        began = time.monotonic()
        with pytest.raises(RunTimeout, match=r"made \d+ exits in 0.1 s"):
            run_payload(machine.vcpus[0], 0.1)
        assert time.monotonic() - began < 0.1 + SLACK


# ------------------------------------------------------------------ kicks


@pytest.mark.scenario("run.kick.spin")
@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_kick_ends_the_run(builder: VmBuilder, name: str, mode: str) -> None:
    with builder.payload(name, mode).build() as machine:
        thread = machine.start(timeout=30)
        time.sleep(0.05)
        assert thread.running
        began = time.monotonic()
        run = thread.stop()
        assert time.monotonic() - began < SLACK
        assert isinstance(run.exit, InterruptedExit)
        assert isinstance(run.exit, InterruptedExit)


@pytest.mark.scenario("run.kick.before")
def test_a_kick_before_the_run_ends_it_once(spinning: Machine) -> None:
    vcpu = spinning.vcpus[0]
    vcpu.kick()
    assert isinstance(vcpu.run(5), InterruptedExit)
    with pytest.raises(RunTimeout):
        vcpu.run(0.02)


@pytest.mark.scenario("run.kick.many")
def test_a_kick_is_never_lost(spinning: Machine) -> None:
    """Kicks that fall on every moment of a run's beginning and end."""
    for turn in range(200):
        thread = spinning.start(timeout=30)
        if turn % 3:
            time.sleep(turn % 7 * 1e-4)
        began = time.monotonic()
        assert isinstance(thread.stop().exit, InterruptedExit)
        assert time.monotonic() - began < SLACK


@pytest.mark.scenario("run.kick.by_a_signal_handler")
def test_a_signal_handler_may_kick_its_own_thread(spinning: Machine) -> None:
    vcpu = spinning.vcpus[0]
    before = signal.signal(signal.SIGUSR1, lambda *_: vcpu.kick())
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        assert isinstance(vcpu.run(30), InterruptedExit)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.scenario("run.signal.handler_runs")
def test_a_signal_handler_runs_and_the_guest_goes_on(spinning: Machine) -> None:
    seen: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    began = time.monotonic()
    try:
        timer.start()
        with pytest.raises(RunTimeout):
            spinning.vcpus[0].run(0.6)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 1
    assert seen[0] - began < 0.6


@pytest.mark.scenario("run.signal.handler_raises")
def test_what_a_signal_handler_raises_comes_out_of_run(spinning: Machine) -> None:
    class Alarm(Exception):
        pass

    def on_signal(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR1, on_signal)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Alarm):
            spinning.vcpus[0].run(30)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(RunTimeout):  # it can be run again
        spinning.vcpus[0].run(0.02)


# SIGINT may be ignored where tests run in the background, and Python then leaves it so.
INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from kvmharness import Kvm, VmBuilder
with VmBuilder(Kvm.open()).memory(0, 1 << 20, "anonymous").payload("spin").build() as machine:
    print("running", flush=True)
    try:
        {run}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(3)
"""


@pytest.mark.usefixtures("vm")  # the child needs what makes one
@pytest.mark.scenario("run.signal.ctrl_c")
@pytest.mark.parametrize(
    "run", ["machine.run(60)", "machine.start(timeout=60).join()"], ids=["main", "thread"]
)
def test_ctrl_c_ends_a_program_that_runs_a_guest(run: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(run=run)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        time.sleep(0.2)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=20)
        assert time.monotonic() - began < SLACK + 1
        assert output == "interrupted\n"
        assert child.returncode == 3
    finally:
        child.kill()
        child.communicate()


# ------------------------------------------------------------------ closing, running twice


@pytest.mark.scenario("run.closed.vcpu")
def test_a_closed_vcpu_is_ebadf(spinning: Machine) -> None:
    vcpu = spinning.vcpus[0]
    vcpu.close()
    with pytest.raises(KvmError, match="KVM_RUN failed: EBADF"):
        vcpu.run(5)
    vcpu.kick()  # nothing to kick, nothing to crash
    vcpu.close()
    assert vcpu.try_.get_regs().errno_name == "EBADF"


@pytest.mark.scenario("run.closed.while_running")
def test_closing_a_running_vcpu_waits_until_it_has_left(spinning: Machine) -> None:
    thread = spinning.start(timeout=30)
    time.sleep(0.05)
    spinning.vcpus[0].close()
    run = thread.join()
    assert isinstance(run.exit, InterruptedExit)


@pytest.mark.scenario("run.closed.machine_while_running")
def test_closing_a_machine_stops_its_vcpus(builder: VmBuilder) -> None:
    machine = builder.vcpus(2).payload("spin").build()
    threads = [machine.start(vcpu, timeout=30) for vcpu in range(2)]
    time.sleep(0.05)
    began = time.monotonic()
    machine.close()
    assert time.monotonic() - began < SLACK
    assert not any(thread.running for thread in threads)
    assert machine.closed


@pytest.mark.scenario("run.closed.inside_run")
def test_a_signal_handler_can_not_close_what_it_interrupted(spinning: Machine) -> None:
    vcpu = spinning.vcpus[0]
    before = signal.signal(signal.SIGUSR1, lambda *_: vcpu.close())
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(HarnessError, match="inside its own run"):
            vcpu.run(30)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert not vcpu.closed


@pytest.mark.scenario("run.twice")
def test_a_vcpu_is_run_by_one_thread_at_a_time(spinning: Machine) -> None:
    thread = spinning.start(timeout=30)
    time.sleep(0.05)
    with pytest.raises(HarnessError, match="is being run by thread"):
        spinning.vcpus[0].run(5)
    assert thread.running
    thread.stop()


@pytest.mark.scenario("run.threads")
def test_a_vcpu_may_change_threads(builder: VmBuilder) -> None:
    with builder.payload("hello").build() as machine:
        consoles = []
        for _ in range(3):
            machine.enter("hello")
            consoles.append(machine.start().join().console)
            machine.enter("hello")
            consoles.append(machine.run().console)
        assert consoles == ["hello from guest_memfd\n"] * 6


@pytest.mark.scenario("run.thread_error")
def test_a_threads_error_comes_out_of_join(spinning: Machine) -> None:
    thread = spinning.start(timeout=0.05)
    with pytest.raises(RunTimeout):
        thread.join()
    assert not thread.running


@pytest.mark.scenario("run.settle")
def test_settling_finishes_the_exits_instruction_and_no_more(builder: VmBuilder) -> None:
    with builder.payload("hello", "long-cpl0").build() as machine:
        vcpu = machine.vcpus[0]
        exit_ = vcpu.run(5)
        assert isinstance(exit_, IoExit)
        vcpu.settle()
        rip = vcpu.get_regs().rip
        vcpu.settle()
        assert vcpu.get_regs().rip == rip
        second = vcpu.run(5)
        assert isinstance(second, IoExit)
        assert exit_.data + second.data == b"he"
