# SPDX-License-Identifier: MIT
"""What a guest's signs come to: the verdict, from pipes that play QEMU."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping

import pytest

from kvmharness import process
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.hosts.native import NativeHost
from kvmharness.hosts.watch import Watch

# A guest's seconds pass as ours do: what is told at once was no time.
_READY = b"2.5 up 7.3.4\n2.6 modules\n2.7 ready\n"
_PANIC = (
    b"\r\n[    5.0] Kernel panic - not syncing: sysrq triggered crash\r\n[ 5.1] Call Trace:\r\n"
)

Play = Callable[..., HostRun]


@pytest.fixture
def play() -> Play:
    """A function that gives streams to a watch, while a child plays QEMU."""

    def run(
        streams: Mapping[str, bytes],
        qemu: str = "exit 0",
        timeout: float = 0.3,
        boot: float = 0.3,
        silence: float = 60.0,
    ) -> HostRun:
        watch = Watch(None, time.monotonic(), boot, timeout, lambda: silence)
        orders, told = os.pipe()
        with process.child(["sh", "-c", qemu], stdin=subprocess.DEVNULL) as machine:
            pipes: dict[str, int] = {}
            try:
                for name, data in streams.items():
                    pipes[name], write = os.pipe()
                    os.write(write, data)
                    os.close(write)
                if "sleep" in qemu:  # QEMU lives on: the console stays open
                    pipes["open"], held = os.pipe()
                else:
                    held = -1
                watch.follow(machine, pipes, told)
                os.close(told)
                told = -1
                assert bool(os.read(orders, 10)) == (watch.let_go and not watch.refused)
            finally:
                for fd in (*pipes.values(), held, orders, told):
                    if fd >= 0:
                        os.close(fd)
        return watch.verdict()

    return run


def test_a_command_that_ended_is_finished_with_its_status(play: Play) -> None:
    control = _READY + b"2.8 exit 37\n"
    said = {"console": b"as it was\r\n", "stdout": b"out", "stderr": b"err"}
    result = play({"control": control, **said})
    assert (result.verdict, result.status, result.exit_status) == (Verdict.FINISHED, 37, 37)
    assert (result.stdout, result.stderr, result.console_tail) == (b"out", b"err", "")
    assert result.console == "as it was\n"
    assert result.milestones == {"up": 2.5, "modules": 2.6, "ready": 2.7, "exit": 2.8}
    assert not result.ok


def test_a_status_outlives_a_panic_on_the_way_down(play: Play) -> None:
    assert play({"control": _READY + b"2.8 exit 0\n", "console": _PANIC}).ok


def test_a_panic_is_told_with_its_reason_and_the_console(play: Play) -> None:
    result = play({"control": _READY, "console": _PANIC})
    assert (result.verdict, result.status, result.exit_status) == (Verdict.PANIC, None, 126)
    assert "sysrq triggered crash" in result.detail
    assert "Call Trace:" in result.console_tail
    assert "\r" not in result.console_tail
    assert "Call Trace:" in result.explain()


def test_a_panic_before_the_command_is_a_failed_boot(play: Play) -> None:
    result = play({"control": b"2.5 up 7.3.4\n", "console": _PANIC})
    assert (result.verdict, result.exit_status) == (Verdict.BOOT_FAILED, 125)
    assert "while booting" in result.detail


def test_what_init_says_is_the_reason_of_a_failed_boot(play: Play) -> None:
    result = play({"control": b"2.5 up 7.3.4\n2.9 failed insmod kvm-amd.ko: no such device\n"})
    assert result.verdict is Verdict.BOOT_FAILED
    assert result.detail == "insmod kvm-amd.ko: no such device"


def test_silence_after_the_start_is_a_timeout(play: Play) -> None:
    result = play({"control": _READY, "console": b"hung\n"}, "sleep 30")
    assert (result.verdict, result.exit_status) == (Verdict.TIMEOUT, 124)
    assert result.console_tail.strip() == "hung"
    assert result.seconds < 10


def test_a_command_that_says_nothing_is_ended_before_its_time_is_over(play: Play) -> None:
    result = play({"control": _READY}, "sleep 30", timeout=60.0, silence=0.2)
    assert (result.verdict, result.exit_status) == (Verdict.SILENT, 124)
    assert result.detail == "nothing was heard of the command for 0.2 s"
    assert result.seconds < 10


def test_silence_counts_from_the_start_and_not_after_the_end(play: Play) -> None:
    result = play({"control": b"2.5 up 7.3.4\n"}, "sleep 30", boot=0.5, silence=0.1)
    assert result.verdict is Verdict.BOOT_FAILED
    assert result.seconds >= 0.5
    assert play({"control": _READY + b"2.8 exit 0\n"}, silence=0.0).ok


def test_signs_that_came_before_the_deadline_count_when_they_are_read_late(play: Play) -> None:
    result = play({"control": _READY + b"2.8 exit 0\n"}, boot=0.0)
    assert result.verdict is Verdict.FINISHED
    result = play({"control": _READY}, "sleep 30", boot=0.0)
    assert result.verdict is Verdict.TIMEOUT


def test_silence_while_booting_is_a_failed_boot(play: Play) -> None:
    result = play({"control": b"2.5 up 7.3.4\n"}, "sleep 30", timeout=30.0)
    assert result.verdict is Verdict.BOOT_FAILED
    assert "last sign of life: up" in result.detail


def test_the_commands_deadline_begins_when_it_does(play: Play) -> None:
    result = play({"control": _READY}, "sleep 30", timeout=0.2, boot=60.0)
    assert result.verdict is Verdict.TIMEOUT
    assert result.seconds < 10


def test_a_reset_without_a_word_is_told_apart(play: Play) -> None:
    assert play({"control": _READY}).verdict is Verdict.GUEST_DIED


def test_a_qemu_that_is_killed_is_told_apart(play: Play) -> None:
    result = play({"control": _READY}, "kill -SEGV $$")
    assert result.verdict is Verdict.QEMU_CRASHED
    assert "SIGSEGV" in result.detail


def test_a_qemu_that_refuses_to_start_says_why(play: Play) -> None:
    result = play({"qemu": b"qemu: -smp 99: too many\n"}, "exit 1")
    assert result.verdict is Verdict.QEMU_CRASHED
    assert "-smp 99: too many" in result.detail


@pytest.mark.parametrize(("ready", "told"), [(b"8.0", "5.5 s of it in 0.0 s")])
def test_a_host_whose_clock_is_wrong_is_refused_before_the_command_begins(
    play: Play, ready: bytes, told: str
) -> None:
    result = play({"control": b"2.5 up 7.3.4\n" + ready + b" ready\n"}, "sleep 30")
    assert (result.verdict, result.exit_status) == (Verdict.BOOT_FAILED, 125)
    assert result.detail == f"its time is wrong: {told}"
    assert result.seconds < 10


def test_a_clock_that_goes_wrong_later_is_a_verdict(play: Play) -> None:
    result = play({"control": b"3.0 up 7.3.4\n3.1 ready\n9.0 exit 0\n"})
    assert (result.verdict, result.status, result.exit_status) == (Verdict.WRONG_TIME, None, 126)
    assert "6.0 s of it in 0.0 s" in result.detail


def test_a_child_ends_with_its_block() -> None:
    script = "trap '' TERM; echo up; while :; do sleep 1; done"
    with process.child(["sh", "-c", script], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"up\n"
        began = time.monotonic()
    assert stubborn.returncode == -9
    assert time.monotonic() - began < 10


def test_native_passes_status_output_and_environment() -> None:
    argv = ["sh", "-c", 'echo "$KVMHARNESS_HOST $MORE"; echo e >&2; exit 3']
    result = NativeHost().run(argv, timeout=30, env={"MORE": "x"})
    assert (result.verdict, result.status) == (Verdict.FINISHED, 3)
    assert (result.stdout, result.stderr) == (b"native x\n", b"e\n")


def test_native_ends_what_runs_too_long() -> None:
    result = NativeHost().run(["sh", "-c", "echo a; sleep 60"], timeout=0.5)
    assert (result.verdict, result.status) == (Verdict.TIMEOUT, None)
    assert result.stdout == b"a\n"
    assert result.seconds < 30


def test_native_ends_what_is_silent_too_long() -> None:
    script = "for i in 1 2 3 4; do sleep 0.2; echo $i; done; exec sleep 60"
    result = NativeHost().run(["sh", "-c", script], timeout=60, silence=lambda: 0.6)
    assert (result.verdict, result.status) == (Verdict.SILENT, None)
    assert result.stdout == b"1\n2\n3\n4\n"
    assert 1.2 < result.seconds < 30


def test_native_says_what_is_not_there() -> None:
    result = NativeHost().run(["no-such-program-here"], timeout=5)
    assert result.verdict is Verdict.BOOT_FAILED
    assert "no-such-program-here" in result.detail


def test_native_does_not_wait_for_what_was_left_behind() -> None:
    result = NativeHost().run(["sh", "-c", "sleep 20 & echo done"], timeout=15)
    assert result.ok
    assert result.seconds < 10
