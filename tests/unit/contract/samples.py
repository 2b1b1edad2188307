# SPDX-License-Identifier: MIT
"""Rows and outcomes made up, of one scenario, a.b."""

from __future__ import annotations

from typing import Any

from kvmharness.contract.generation import Change, Generation
from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import Row
from kvmharness.scenarios.outcome import Outcome

from ..steps import promises, step

SCENARIO = "a.b"


def row(*outcome: str, first: str | list[str] = "", end: str | list[str] = "", **more: Any) -> Row:
    """A row for kernels that have the change `first` and not `end`, lists of releases each."""
    generation = Generation(*(Change.parse(each) if each else None for each in (first, end)))
    values = {"read": ("somewhere",), **more}
    return Row(Patterns((SCENARIO,)), generation, promises(*outcome), **values)


def outcome(*texts: str, log: tuple[str, ...] | None = ()) -> Outcome:
    """An outcome whose steps say this; `log` is None where it could not be read."""
    return Outcome(SCENARIO, list(map(step, texts)), log=None if log is None else list(log))
