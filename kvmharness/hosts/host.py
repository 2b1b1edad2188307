# SPDX-License-Identifier: MIT
"""What a run on a host came to, in the same words for every kind of host."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kvmharness.kernel_log.log import KernelLine, since_begin
from kvmharness.report.result import AfterRun

#: Takes "stdout" or "stderr" and the bytes, as they arrive.
OnOutput = Callable[[str, bytes], None]
#: Tells for how many seconds a command may write nothing, now.
Silence = Callable[[], float]
#: How much of the console is kept for a report, in lines.
TAIL_LINES = 60


def never() -> float:
    """Let a command be silent for ever."""
    return float("inf")


class Verdict(enum.StrEnum):
    """How a run ended."""

    FINISHED = "finished"  # the command ended by itself; its status says how
    TIMEOUT = "timeout"  # it was still running at its deadline, and was ended
    SILENT = "silent"  # nothing was heard of it for too long, and it was ended
    WRONG_TIME = "wrong-time"  # the guest's clock was wrong: what it came to can't be relied on
    PANIC = "panic"  # the guest's kernel panicked
    GUEST_DIED = "guest-died"  # the guest was reset or powered off without a word
    QEMU_CRASHED = "qemu-crashed"  # QEMU itself ended by a signal, or refused to start
    BOOT_FAILED = "boot-failed"  # the command was never started


@dataclass(frozen=True)
class Again:
    """How to boot a machine again: the shell command, ready to paste, and the file it is in."""

    command: str
    file: Path


@dataclass(frozen=True)
class HostRun:
    """The outcome of one run. `status` is the command's, or None if it had none."""

    verdict: Verdict
    status: int | None
    seconds: float  # wall time, boot included
    detail: str = ""  # one line: what went wrong
    stdout: bytes = b""  # empty when a callback took the output
    stderr: bytes = b""
    #: Where the command did not end by itself: the console's last lines, and what QEMU said.
    console_tail: str = ""
    #: Guest seconds since its kernel started, at "up", "modules", "ready" and "exit".
    milestones: Mapping[str, float] = field(default_factory=dict)
    #: Seconds of the guest's clock in a second of ours, over the time that init tells; None where
    #: that was too short to know, and on a host that has our clock.
    clock_rate: float | None = None
    #: What the commands came to that were to run afterwards.
    after: Sequence[AfterRun] = ()
    #: The guest's memory as it was when the command did not end by itself, if it was to be kept.
    vmcore: Path | None = None
    #: Whether it went on from a snapshot of a host that had booted earlier.
    restored: bool = False
    #: Why an earlier boot for this run was refused; it was booted again then.
    refused: Sequence[str] = ()
    #: What the guest's console said, whatever the verdict; of a long text, the last 256 KiB.
    console: str = ""
    #: What the kernel logged meanwhile, a guest's as its console shows it; None where that can't be
    #: known.
    kernel_log: Sequence[KernelLine] | None = None
    #: Where the command did not end by itself: a shell command that boots the same machine again,
    #: and the file that holds it; None where nothing could be kept.
    again: Again | None = None

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with status 0."""
        return self.verdict is Verdict.FINISHED and self.status == 0

    @property
    def exit_status(self) -> int:
        """The status for a shell: the command's, 124 for a timeout, 125 for a boot, else 126."""
        if self.verdict is Verdict.FINISHED and self.status is not None:
            return self.status
        known = {Verdict.TIMEOUT: 124, Verdict.SILENT: 124, Verdict.BOOT_FAILED: 125}
        return known.get(self.verdict, 126)

    def kernel_log_since(self, test_id: str) -> list[KernelLine]:
        """Return what the kernel logged since it was told that this test began; all without that.

        Empty where the log can't be known.
        """
        return since_begin(self.kernel_log or (), test_id)

    def explain(self) -> str:
        """Say in a few lines what happened, with the console's tail where that helps."""
        if self.verdict is Verdict.FINISHED:
            return f"ended with status {self.status} after {self.seconds:.1f} s"
        text = f"{self.verdict}: {self.detail} (after {self.seconds:.1f} s)"
        if self.vmcore is not None:
            text += f"\nThe guest's memory, for crash or drgn: {self.vmcore}"
        if self.console_tail:
            text += "\nLast lines of the guest's console:\n" + self.console_tail
        return text

    def how_again(self) -> str:
        """Say how to boot the same machine again by hand; empty if it can't, or need not, be."""
        if self.again is None:
            return ""
        return (
            f"To boot the same machine again ({self.again.file} -s -S lets gdb attach first, "
            f"with target remote :1234):\n{self.again.command}"
        )


class Host(Protocol):
    """Runs an argv where a kernel is."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What a record must carry: ``kind``, ``emulated``, ``kernel``, ..."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        writable: Sequence[Path] = (),
        on_output: OnOutput | None = None,
        silence: Silence = never,
        after: Sequence[str] = (),
    ) -> HostRun:
        """Run `argv` for at most `timeout` seconds. Files below `writable` reach the caller.

        `after`: commands for the shell that run there once `argv` has ended.

        `silence` tells, whenever it is asked, for how many seconds `argv` may write nothing.
        """


def printable(console: bytes) -> str:
    """Return what a console said as text, without carriage returns and control codes."""
    text = console.decode("utf-8", "replace")
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def tail(console: bytes, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a console as text."""
    return "\n".join(printable(console).rstrip("\n").split("\n")[-lines:])
