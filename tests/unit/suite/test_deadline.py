# SPDX-License-Identifier: MIT
"""Deadlines reach code that waits, leave nothing armed, and nest; the watchdog ends a hang."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from kvmharness.suite.deadline import deadline


class Late(BaseException):
    """What these deadlines raise: nothing that code under test would catch."""


def test_a_wait_is_interrupted() -> None:
    began = time.monotonic()
    with pytest.raises(Late), deadline(0.05, Late):
        threading.Event().wait(30)
    assert time.monotonic() - began < 5


def test_a_swallowed_exception_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmharness.suite.deadline.AGAIN", 0.05)
    swallowed = 0

    def swallow_two() -> None:
        nonlocal swallowed
        while True:
            try:
                time.sleep(30)
            except Late:
                swallowed += 1
                if swallowed == 3:
                    raise

    with pytest.raises(Late), deadline(0.05, Late):
        swallow_two()
    assert swallowed == 3


def test_in_time_nothing_stays_armed() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    outside, _ = signal.getitimer(signal.ITIMER_REAL)
    with deadline(30, Late):
        inside, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < inside <= 30
    assert signal.getsignal(signal.SIGALRM) is handler
    after, _ = signal.getitimer(signal.ITIMER_REAL)
    assert (after == 0) == (outside == 0)


def test_an_outer_deadline_survives_an_inner_one() -> None:
    class Later(Late):
        pass

    def inner_then_wait() -> None:
        with deadline(30, Late):
            pass
        time.sleep(30)

    with pytest.raises(Later), deadline(0.1, Later):
        inner_then_wait()


def test_zero_is_no_deadline() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(0, Late):
        assert signal.getsignal(signal.SIGALRM) is before


HANG = """
import signal, time
from kvmharness.suite import deadline
deadline.GRACE = 0.1
watchdog = deadline.Watchdog()
watchdog.cover(0.1)
{}
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
with deadline.deadline(0.1, KeyError):
    time.sleep(1 if {!r} else 30)
print("survived")
"""


def run_hang(first: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HANG.format(first, first)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_watchdog_ends_what_no_exception_reaches() -> None:
    ended = run_hang("")
    assert ended.returncode == 1
    assert "Timeout (" in ended.stderr
    assert "time.sleep" in ended.stderr or "line 10 in <module>" in ended.stderr
    assert "survived" not in ended.stdout


def test_a_stopped_watchdog_does_not() -> None:
    assert run_hang("watchdog.stop()").stdout == "survived\n"
