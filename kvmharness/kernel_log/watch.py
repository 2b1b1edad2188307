# SPDX-License-Identifier: MIT
"""A watch over the kernel: what it logs from a moment on, and how its taint changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kvmharness.kernel_log import taint
from kvmharness.kernel_log.classify import Finding, findings
from kvmharness.kernel_log.log import KernelLine, KernelLog, say_begin


class Log(Protocol):
    """What of a KernelLog is used here."""

    def new_lines(self) -> list[KernelLine]:
        """Return the lines since the last call."""

    def close(self) -> None:
        """Close the log."""


@dataclass(frozen=True)
class Said:
    """What the kernel said over a stretch of time, and what of it is said against itself."""

    lines: tuple[KernelLine, ...]
    findings: tuple[Finding, ...]


class KernelWatch:
    """Watches over stretch after stretch: each begins where take() ended the one before.

    `allowed` are patterns of lines that are no findings, besides those of splats.toml.
    """

    def __init__(self, log: Log | None, allowed: Iterable[re.Pattern[str]] = ()) -> None:
        self._log = log
        self._allowed = tuple(allowed)
        self._lines: list[KernelLine] = []
        self._tainted = taint.read()

    @classmethod
    def open(cls, allowed: Iterable[re.Pattern[str]] = ()) -> KernelWatch:
        """Begin to watch, from now on."""
        return cls(KernelLog.open(), allowed)

    @property
    def sees_log(self) -> bool:
        """Whether this user may read the kernel's log; the taint can be seen in any case."""
        return self._log is not None

    def lines(self) -> list[KernelLine]:
        """Return what was logged in this stretch so far."""
        if self._log is not None:
            self._lines += [line for line in self._log.new_lines() if not line.own]
        return self._lines

    def take(self) -> Said:
        """End this stretch, say what it held, and begin the next."""
        before, self._tainted = self._tainted, taint.read()
        lines, self._lines = self.lines(), []
        new = (self._tainted or 0) & ~(before or 0)
        return Said(tuple(lines), tuple(findings(lines, new, allowed=self._allowed)))

    def say_begin(self, test_id: str) -> None:
        """Write to the log which test begins."""
        say_begin(test_id)

    def close(self) -> None:
        """End the watch."""
        if self._log is not None:
            self._log.close()
            self._log = None
