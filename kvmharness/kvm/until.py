# SPDX-License-Identifier: MIT
"""Many exits in one go: what Vcpu.run_until() passes over, and what it came to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvmharness.kvm.exits import AnyExit, IoExit
from kvmharness.kvm.ffi import ffi
from kvmharness.record import Record

_PORTS = 1 << 16
_REASONS = 64
#: Output is handed to Python whenever so many bytes of it are there.
_ROOM = 1 << 16
_NO_LIMIT = (1 << 64) - 1


class Stretch(Record):
    """What a run_until() did: how many exits it made, and what the guest wrote to the ports kept.

    `exit` is the one that ended it, itself counted; None if it was the number of exits or, with
    `timed_out`, the deadline. A kick's is an InterruptedExit, which is no exit of the guest's.
    """

    exit: AnyExit | None
    exits: int
    output: bytes
    timed_out: bool = False


class Until:
    """The C side's orders, `c`, and the output so far."""

    def __init__(self, output: Iterable[int], pass_over: Iterable[int], most: int | None) -> None:
        self._ports = ffi.new("uint8_t[]", _PORTS // 8)
        for port in output:
            if not 0 <= port < _PORTS:
                raise ValueError(f"output: {port:#x} is no port")
            self._ports[port // 8] |= 1 << port % 8
        reasons = 0
        for reason in pass_over:
            if not 0 <= reason < _REASONS:
                raise ValueError(f"pass_over: {reason} is no exit reason")
            reasons |= 1 << reason
        if most is not None and most < 1:
            raise ValueError(f"most: at least one exit, not {most}")
        self._room = ffi.new("uint8_t[]", _ROOM)
        self._output = bytearray()
        # It points to both: they live as long as this object.
        self.c: Any = ffi.new(
            "struct kvmh_until *",
            {
                "ports": self._ports,
                "passed_over": reasons,
                "most": _NO_LIMIT if most is None else most,
                "output": self._room,
                "room": _ROOM,
            },
        )

    @property
    def done(self) -> bool:
        """Whether as many exits were made as there were to make."""
        return bool(self.c.exits >= self.c.most)

    def keeps(self, exit_: AnyExit) -> bool:
        """Take output that had no room; False for an exit that is the caller's."""
        if not isinstance(exit_, IoExit) or not exit_.is_out:
            return False
        if not self._ports[exit_.port // 8] >> exit_.port % 8 & 1:
            return False
        self._drain()
        self._output += exit_.data
        return True

    def stretch(self, exit_: AnyExit | None, timed_out: bool = False) -> Stretch:
        """Return what it came to."""
        self._drain()
        return Stretch(exit_, int(self.c.exits), bytes(self._output), timed_out)

    def _drain(self) -> None:
        self._output += ffi.buffer(self._room, self.c.used)
        self.c.used = 0
