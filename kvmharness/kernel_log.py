# SPDX-License-Identifier: MIT
"""The kernel's log since a moment, from /dev/kmsg: what a test made the kernel say.

Reading it takes root (or kernel.dmesg_restrict=0); without that there simply is no log.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass

#: What the kernel prints when it has found a bug in itself.
_SPLAT = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Oops|general protection fault|KASAN|UBSAN|KCSAN|"
    r"possible circular locking|possible recursive locking|suspicious RCU|soft lockup|"
    r"hung_task|blocked for more than|Call Trace|RMP"
)

#: A record of /dev/kmsg is at most this long (CONSOLE_EXT_LOG_MAX); a shorter read is EINVAL.
_RECORD = 8192


@dataclass(frozen=True)
class KernelLine:
    """One line: `level` 0 (emergency) to 7 (debug), `seconds` since boot, `text`."""

    level: int
    seconds: float
    text: str

    @property
    def splat(self) -> bool:
        """Whether the kernel reports a bug in itself, or a violation of the RMP."""
        return _SPLAT.search(self.text) is not None

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


class KernelLog:
    """An open /dev/kmsg: ``mark()`` skips what was said, ``new_lines()`` reads what came since."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.mark()

    @classmethod
    def open(cls, path: str = "/dev/kmsg") -> KernelLog | None:
        """Open the log at its end; None where this user may not read it."""
        try:
            file = io.FileIO(path, opener=_open_without_waiting)
        except OSError:
            return None
        try:
            log = cls(file)
            log.new_lines()
        except OSError:
            file.close()
            return None
        return log

    def mark(self) -> None:
        """Have new_lines() give what the kernel says from now on."""
        os.lseek(self._file.fileno(), 0, os.SEEK_END)

    def new_lines(self) -> list[KernelLine]:
        """Return the lines since mark() or the last call."""
        lines: list[KernelLine] = []
        while True:
            try:
                record = os.read(self._file.fileno(), _RECORD)
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                # The ring buffer went round before we read it; the next read goes on after the gap.
                lines.append(KernelLine(4, 0.0, "(lines lost: the kernel's buffer went round)"))
                continue
            if not record:
                return lines
            lines.append(parse(record))

    def close(self) -> None:
        """Close the log."""
        self._file.close()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse(record: bytes) -> KernelLine:
    """Parse a record of /dev/kmsg: ``priority,sequence,microseconds,flags;text`` and more lines.

    Source: the kernel's Documentation/ABI/testing/dev-kmsg.
    """
    prefix, _, text = record.decode("utf-8", "replace").partition(";")
    fields = prefix.split(",")
    # The lines that follow are KEY=value pairs about the device: not part of what was said.
    return KernelLine(int(fields[0]) & 7, int(fields[2]) / 1e6, text.split("\n", 1)[0])
