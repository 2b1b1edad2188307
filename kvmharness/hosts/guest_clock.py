# SPDX-License-Identifier: MIT
"""Whether a guest's clock goes right: its time against ours, at what init tells.

A guest that takes its processor for slower than it is lives faster: deadlines in it are over too
soon, and tests fail that did not fail.
"""

from __future__ import annotations

#: What may differ: this share of the time, and these seconds, by which we may read a line late.
_SHARE = 0.05
_LATE = 0.5


class GuestClock:
    """Compares the clocks from the first reading on."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        #: Guest seconds in a second of ours, from the first reading to the last; None before.
        self.rate: float | None = None
        #: What is wrong with it, in a few words; empty while nothing is.
        self.wrong = ""

    def restart(self) -> None:
        """Compare from the next reading on: the guest stood still meanwhile."""
        self._first = None

    def reading(self, guest: float, ours: float) -> None:
        """Take a reading: seconds of the guest's clock, and of ours when it was told."""
        if self._first is None:
            self._first = guest, ours
            return
        theirs, wall = guest - self._first[0], ours - self._first[1]
        if wall <= 0:
            return
        self.rate = theirs / wall
        if abs(theirs - wall) > wall * _SHARE + _LATE:
            self.wrong = f"its time is wrong: {theirs:.1f} s of it in {wall:.1f} s"
