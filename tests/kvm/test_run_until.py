# SPDX-License-Identifier: MIT
"""run_until(): many exits in one go, and each way that such a stretch ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from kvmharness import Machine, VmBuilder
from kvmharness.kvm.exits import HltExit, InterruptedExit, IoExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.vcpu import Vcpu

PORT = 0x10
IO = lib.KVM_EXIT_IO
#: mov al, 'A'; out 0x10, al; mov al, 'B'; out 0x11, al; out 0x10, al; hlt
FEW = bytes.fromhex("b0 41 e6 10 b0 42 e6 11 e6 10 f4")
#: out 0x10, al; jmp back to it
ENDLESS = bytes.fromhex("e6 10 eb fc")


@pytest.fixture
def run_code(vm_builder: Callable[..., VmBuilder]) -> Iterator[Callable[[bytes], Vcpu]]:
    made: list[Machine] = []

    def vcpu_of(code: bytes) -> Vcpu:
        builder = vm_builder().memory(0, 1 << 20, "anonymous").code(code, mode="real")
        made.append(builder.build())
        return made[-1].vcpus[0]

    yield vcpu_of
    for machine in made:
        machine.close()


@pytest.mark.scenario("run.until.output")
def test_output_is_kept_and_ends_nothing(run_code: Callable[[bytes], Vcpu]) -> None:
    stretch = run_code(FEW).run_until(5, output=[0x10, 0x11])
    assert isinstance(stretch.exit, HltExit)
    assert (stretch.exits, stretch.output, stretch.timed_out) == (4, b"ABB", False)


@pytest.mark.scenario("run.until.other_port")
def test_another_port_is_the_callers(run_code: Callable[[bytes], Vcpu]) -> None:
    vcpu = run_code(FEW)
    stretch = vcpu.run_until(5, output=[0x10])
    assert isinstance(stretch.exit, IoExit)
    assert (stretch.exit.port, stretch.exit.data) == (0x11, b"B")
    assert (stretch.exits, stretch.output) == (2, b"A")
    stretch = vcpu.run_until(5, output=[0x10])
    assert isinstance(stretch.exit, HltExit)
    assert (stretch.exits, stretch.output) == (2, b"B")


@pytest.mark.scenario("run.until.pass_over")
def test_exits_are_passed_over_by_reason(run_code: Callable[[bytes], Vcpu]) -> None:
    stretch = run_code(FEW).run_until(5, output=[0x11], pass_over=[IO])
    assert isinstance(stretch.exit, HltExit)
    assert (stretch.exits, stretch.output) == (4, b"B")


@pytest.mark.scenario("run.until.most")
@pytest.mark.parametrize("most", [1, 2, 1000, 70_000])  # the last needs more room than there is
@pytest.mark.parametrize("reasons", [(), (IO,)])
def test_so_many_exits_and_no_more(
    run_code: Callable[[bytes], Vcpu], most: int, reasons: tuple[int, ...]
) -> None:
    stretch = run_code(ENDLESS).run_until(60, output=[PORT], pass_over=reasons, most=most)
    assert (stretch.exit, stretch.exits, stretch.timed_out) == (None, most, False)
    assert len(stretch.output) == most


@pytest.mark.scenario("run.until.deadline")
@pytest.mark.parametrize("seconds", [0.05, 0.4])  # within one slice, and over several
def test_the_deadline_ends_it_and_is_no_error(
    run_code: Callable[[bytes], Vcpu], seconds: float
) -> None:
    vcpu = run_code(ENDLESS)
    stretch = vcpu.run_until(seconds, output=[PORT])
    assert stretch.timed_out
    assert stretch.exit is None
    assert 0 < stretch.exits == len(stretch.output)
    assert vcpu.run_until(5, output=[PORT], most=3).output == stretch.output[-1:] * 3


@pytest.mark.scenario("run.until.kick")
def test_a_kick_ends_it(run_code: Callable[[bytes], Vcpu]) -> None:
    vcpu = run_code(ENDLESS)
    kicker = threading.Timer(0.1, vcpu.kick)
    kicker.start()
    stretch = vcpu.run_until(30, pass_over=[IO])
    kicker.join()
    assert isinstance(stretch.exit, InterruptedExit)
    assert stretch.exits > 0
    assert vcpu.run_until(5, pass_over=[IO], most=2).exits == 2
