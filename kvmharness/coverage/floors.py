# SPDX-License-Identifier: MIT
"""The least that the suite has to reach of each function, as floors.toml has it.

A share depends on how the kernel was compiled: floors are of a kind of host and a series of
kernels, and say nothing of others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kvmharness.coverage.measure import FunctionCoverage

FILE = Path(__file__).with_name("floors.toml")


@dataclass(frozen=True)
class Fallen:
    """A function of which less was reached than its floor, or that is gone (`percent` None)."""

    function: str
    floor: int
    percent: int | None

    def __str__(self) -> str:
        if self.percent is None:
            return f"{self.function}: not a function of this kernel; its floor is {self.floor} %"
        return f"{self.function}: {self.percent} % reached, and its floor is {self.floor} %"


@cache
def _read() -> dict[str, dict[str, Any]]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def floors(kind: str, series: str) -> Mapping[str, int]:
    """Return the floors, in percent by function, for a kind of host and a series (``7.3``)."""
    found = _read().get(kind, {}).get(series, {})
    # One that was lowered is a table, with the reason.
    return {
        name: floor if isinstance(floor, int) else floor["floor"] for name, floor in found.items()
    }


def fallen(measured: Iterable[FunctionCoverage], floor: Mapping[str, int]) -> Iterator[Fallen]:
    """Yield the functions that don't reach their floor."""
    reached = {each.name: each.percent for each in measured}
    for name, least in floor.items():
        percent = reached.get(name)
        if percent is None or percent < least:
            yield Fallen(name, least, percent)
