# SPDX-License-Identifier: MIT
"""Which guest memory is private, by the attributes that were set: KVM itself can't be asked."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right


class PrivateRanges:
    """Ranges of gpas in bytes, each [start, end), that do not touch one another. Thread-safe."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._starts)

    def set(self, gpa: int, size: int, *, private: bool) -> None:
        """Note that `size` bytes from `gpa` have become private, or shared."""
        start, end = gpa, gpa + size
        with self._lock:
            # Those that overlap or, to become one with it, touch.
            first = bisect_left(self._ends, start)
            last = bisect_right(self._starts, end)
            starts, ends = self._starts[first:last], self._ends[first:last]
            if private:
                new = [(min([start, *starts]), max([end, *ends]))]
            else:
                new = [(s, min(e, start)) for s, e in zip(starts, ends, strict=True) if s < start]
                new += [(max(s, end), e) for s, e in zip(starts, ends, strict=True) if e > end]
            self._starts[first:last] = [s for s, _ in new]
            self._ends[first:last] = [e for _, e in new]

    def first(self, gpa: int, size: int) -> int | None:
        """Return the first private gpa of `size` bytes from `gpa`, None if all are shared."""
        if not self._starts:  # as most VMs are
            return None
        with self._lock:
            at = bisect_right(self._ends, gpa)
            if at == len(self._starts):
                return None
            private = max(self._starts[at], gpa)
            return private if private < gpa + size else None
