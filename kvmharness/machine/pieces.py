# SPDX-License-Identifier: MIT
"""Guest memory by gpa: a range is as many pieces as memslots it lies in."""

from __future__ import annotations

from collections.abc import Sequence

from kvmharness.errors import InaccessibleMemory
from kvmharness.machine.slot import Slot
from kvmharness.record import Record


class Piece(Record):
    """The part of a range that lies in one slot: `size` bytes from `offset`, after `done` others.

    All in bytes; `offset` is in the slot, `done` in the range.
    """

    slot: Slot
    offset: int
    size: int
    done: int

    def read(self) -> bytes:
        """Return its bytes as the host sees them, guarded."""
        try:
            return self.slot.mapping.read(self.offset, self.size)
        except InaccessibleMemory as error:
            raise self._located("read", error) from None

    def write(self, whole: memoryview) -> None:
        """Write its part of what goes to the `whole` range, guarded."""
        part = whole if self.size == len(whole) else whole[self.done : self.done + self.size]
        try:
            self.slot.mapping.write(self.offset, part)
        except InaccessibleMemory as error:
            raise self._located("write", error) from None

    def _located(self, action: str, error: InaccessibleMemory) -> InaccessibleMemory:
        """Say the same of the whole range, and where it is for the guest."""
        return InaccessibleMemory(
            action,
            error.address,
            self.done + error.copied,
            error.signal_name,
            error.code,
            self.slot.gpa + self.offset + error.copied,
        )


def pieces(slots: Sequence[Slot], gpa: int, size: int) -> list[Piece]:
    """Divide `size` bytes from `gpa` among `slots`; ValueError where there is none."""
    for slot in slots:
        if slot.holds(gpa, size):
            return [Piece(slot, gpa - slot.gpa, size, 0)]
    found: list[Piece] = []
    at, end = gpa, gpa + size
    while at < end or not found:
        held = next((slot for slot in slots if slot.holds(at, 1)), None)
        if held is None:
            raise ValueError(f"no memslot holds {at:#x}, of {gpa:#x}..{end:#x}")
        part = min(end, held.gpa + held.size) - at
        found.append(Piece(held, at - held.gpa, part, at - gpa))
        at += part
    return found
