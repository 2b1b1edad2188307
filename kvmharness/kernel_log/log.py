# SPDX-License-Identifier: MIT
"""The kernel's log since a moment, from /dev/kmsg or a console: what a test made the kernel say.

Reading /dev/kmsg takes root (or kernel.dmesg_restrict=0); without that there simply is no log.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

#: What our own lines begin with: they are no finding.
OWN_PREFIX = "kvmharness: "
#: A record of /dev/kmsg is at most this long (CONSOLE_EXT_LOG_MAX); a shorter read is EINVAL.
_RECORD = 8192
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class KernelLine:
    """One line: `level` 0 (emergency) to 7 (debug), `seconds` since boot, `text`.

    `facility` is 0 for what the kernel says, else of the process that wrote the line. A console
    tells neither: both are None there.
    """

    level: int | None
    seconds: float
    text: str
    facility: int | None = 0

    @property
    def own(self) -> bool:
        """Whether it was written by this package."""
        return self.facility != 0 and self.text.startswith(OWN_PREFIX)

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
                lines.append(KernelLine(None, 0.0, "(lines lost: the kernel's buffer went round)"))
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
    prefix, _, rest = record.partition(b";")
    fields = prefix.split(b",")
    # The lines that follow are KEY=value pairs about the device: not part of what was said. What
    # was said comes as one line, with what can't be printed escaped, line breaks among it.
    said = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), rest.split(b"\n", 1)[0])
    priority = int(fields[0])
    text = said.decode("utf-8", "replace").strip("\n")
    return KernelLine(priority & 7, int(fields[2]) / 1e6, text, priority >> 3)


#: A line of a console; with printk.caller=1 a thread or processor follows the time.
_CONSOLE = re.compile(r"\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? (.*)")


def parse_console(text: str) -> list[KernelLine]:
    """Return the kernel's lines of what a serial console printed; all else there is left out."""
    found = map(_CONSOLE.match, text.replace("\r", "").splitlines())
    return [KernelLine(None, float(match[1]), match[2], None) for match in found if match]


# ------------------------------------------------------------------ where a test began


#: A longer record is refused (PRINTKRB_RECORD_MAX).
_LONGEST = 800
_INFO = 6


def say_begin(test_id: str, path: str = "/dev/kmsg") -> None:
    """Write to the log that a test begins, where this user may: a panic then names it.

    The file is opened for each: the kernel lets ten lines of an open one through in five seconds.
    """
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        file.write(f"<{_INFO}>{_begin(test_id)}\n".encode())


def since_begin(lines: Sequence[KernelLine], test_id: str) -> list[KernelLine]:
    """Return what was logged since that test began last; all of it if nothing says when."""
    marker = _begin(test_id)
    begins = [number for number, line in enumerate(lines) if line.text == marker]
    return list(lines[begins[-1] + 1 :]) if begins else list(lines)


def _begin(test_id: str) -> str:
    return f"{OWN_PREFIX}begin {' '.join(test_id.split())}"[:_LONGEST]
