# SPDX-License-Identifier: MIT
"""Taking turns: each row alternates between C and Python, a few milliseconds each.

So what else the machine does meets both alike. What counts is the ratio; of a quiet machine the one
of the fastest turns.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from kvmharness.bench.c_half import Turn
from kvmharness.bench.rows import Row


class Turns(NamedTuple):
    """The nanoseconds an operation took, turn by turn; without C there are Python's alone."""

    in_c: list[float]
    in_python: list[float]

    @property
    def ratio(self) -> float | None:
        """Of the fastest turns: what a quiet machine gives."""
        return min(self.in_python) / min(self.in_c) if self.in_c else None

    @property
    def ratios(self) -> list[float]:
        """Of each pair of turns, sorted."""
        return sorted(p / c for p, c in zip(self.in_python, self.in_c, strict=False))

    @property
    def median(self) -> float | None:
        """The median of the pairs' ratios."""
        return statistics.median(self.ratios) if self.in_c else None

    @property
    def middle_half(self) -> tuple[float, float] | None:
        """Between which ratios the middle half of the pairs lies."""
        ratios = self.ratios
        quarter = len(ratios) // 4
        return (ratios[quarter], ratios[-1 - quarter]) if ratios else None


def take_turns(row: Row, in_c: Turn | None, rounds: int) -> Turns:
    """Measure `row`, `rounds` turns of each side."""
    turns = Turns([], [])
    row.run(max(row.count // 10, 1))  # both have done it before
    if in_c is not None:
        in_c(row.in_c, max(row.count // 10, 1), row.size)
    for _ in range(rounds):
        if in_c is not None:
            turns.in_c.append(in_c(row.in_c, row.count, row.size))
        start = time.perf_counter_ns()
        row.run(row.count)
        turns.in_python.append((time.perf_counter_ns() - start) / row.count)
    return turns
