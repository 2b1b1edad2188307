# SPDX-License-Identifier: MIT
"""The contract as a reader asks for it: the rows of some scenarios on one kernel, or on all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvmharness.contract.rows import LOG, Contract, Row

#: The form of the JSON that render() writes; docs/formats.md describes it.
SCHEMA = "kvmharness.contract/1"


@dataclass(frozen=True)
class Promised:
    """A row, and those of the scenarios asked for that it promises something of."""

    row: Row
    scenarios: tuple[str, ...]
    complete: bool

    @property
    def named(self) -> tuple[str, ...]:
        """The scenarios in as few words as possible: the row's patterns, if all it means."""
        patterns = self.row.scenarios.texts
        return patterns if self.complete and len(patterns) < len(self.scenarios) else self.scenarios

    @property
    def outcomes(self) -> list[str]:
        """A line for each step, with what the kernel logs; alternatives after ``or``."""
        lines: list[str] = []
        for alternative in self.row.promised:
            lines += ["or"] if lines else []
            lines += map(str, alternative.outcome)
            lines += [f"(kernel log: {entry})" for entry in alternative.log]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        row = self.row
        return {
            "scenarios": list(self.scenarios),
            "kernels": row.kernels,
            "promised": [
                {"outcome": [str(each) for each in one.outcome], "log": list(one.log)}
                | ({"why": one.why} if one.why else {})
                for one in row.promised
            ],
            "why": row.why,
            "seen": list(row.seen),
            "read": list(row.read),
            "commit": list(row.commit),
            "queued": row.queued,
            "stand_in": ["log" if mark == LOG else mark for mark in sorted(row.stand_in)],
        }


def render(entries: Sequence[Promised], kernel: str | None) -> str:
    """Return promises as JSON text; `kernel` is whose they are, None for every kernel's."""
    document = {
        "schema": SCHEMA,
        "kernel": kernel,
        "promises": [each.as_json() for each in entries],
    }
    return json.dumps(document, indent=2)


def promised(
    contract: Contract, scenarios: Sequence[str], every: Sequence[str], kernel: str | None
) -> list[Promised]:
    """Return what is promised of `scenarios`, in their order: to a kernel, or to all of them.

    `every` are all the ids there are.
    """
    of: dict[Row, list[str]] = {}
    for scenario in scenarios:
        rows = contract.of(scenario) if kernel is None else contract.rows_for(scenario, kernel)
        for row in rows:
            of.setdefault(row, []).append(scenario)
    return [
        Promised(row, tuple(ids), complete=sum(map(row.scenarios.mean, every)) == len(ids))
        for row, ids in of.items()
    ]
