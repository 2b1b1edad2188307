# SPDX-License-Identifier: MIT
"""A watch over the kernel: stretches, taint, and what it comes to without a log."""

from __future__ import annotations

import re

import pytest

from kvmharness.kernel_log import taint
from kvmharness.kernel_log.classify import texts
from kvmharness.kernel_log.log import KernelLine
from kvmharness.kernel_log.watch import KernelWatch


class Log:
    """A kernel log that says what it is told to."""

    def __init__(self) -> None:
        self.coming: list[KernelLine] = []
        self.closed = False

    def say(self, text: str, level: int = 6) -> None:
        self.coming.append(KernelLine(level, 1.0, text))

    def new_lines(self) -> list[KernelLine]:
        lines, self.coming = self.coming, []
        return lines

    def close(self) -> None:
        self.closed = True


def test_each_stretch_has_what_was_said_in_it() -> None:
    log = Log()
    watch = KernelWatch(log)
    log.say("hello")
    assert [line.text for line in watch.lines()] == ["hello"]
    log.coming.append(KernelLine(6, 1.0, "kvmharness: begin x", 1))
    log.say("BUG: one")
    said = watch.take()
    assert [line.text for line in said.lines] == ["hello", "BUG: one"]
    assert texts(said.findings) == ["BUG one"]
    assert watch.take() == type(said)((), ())
    watch.close()
    assert log.closed


def test_only_taint_that_is_new_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1 << 12  # O: an out-of-tree module was loaded, before anything began
    monkeypatch.setattr(taint, "read", lambda: now)
    watch = KernelWatch(None)
    assert not watch.sees_log
    assert watch.take().findings == ()
    now |= 1 << 9
    assert texts(watch.take().findings) == ["taint W"]
    assert watch.take().findings == ()


def test_lines_can_be_allowed() -> None:
    log = Log()
    watch = KernelWatch(log, [re.compile("^usb ")])
    log.say("usb 1-1: error -71", 3)
    assert watch.take().findings == ()


def test_taint_that_can_not_be_read_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taint, "read", lambda: None)
    assert KernelWatch(None).take().findings == ()
