# SPDX-License-Identifier: MIT
"""What came of the suite on one host: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmharness.labels import HostLabel
from kvmharness.report.records import Record


@dataclass
class HostResult:
    """What came of the suite on one host.

    `not_run` counts tests that were planned and have no record, because the run was told to stop
    early (pytest's -x, say).
    """

    label: HostLabel
    facts: Mapping[str, object]
    records: list[Record] = field(default_factory=list)
    planned: int = 0
    seconds: float = 0.0

    def count(self, outcome: str) -> int:
        """How many records have this outcome."""
        return sum(record.outcome == outcome for record in self.records)

    @property
    def not_run(self) -> int:
        """How many of the planned tests have no record."""
        return max(self.planned - len(self.records), 0)
