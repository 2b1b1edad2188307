# SPDX-License-Identifier: MIT
"""What came of the suite on one host: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvmharness import exit_status
from kvmharness.labels import HostLabel
from kvmharness.report.records import Outcome, Record


@dataclass(frozen=True)
class AfterRun:
    """A command that ran on a host once the suite had ended; `output` is all that it wrote."""

    command: str
    status: int  # a shell's: 128 and the signal's number; 124: it had no time left
    output: str


@dataclass
class HostResult:
    """What came of the suite on one host: a record for each test that was planned.

    `facts` is what is known of the host. `seconds`: how long it took, boots included.
    `after`: what was to run once the suite had ended; in each boot, where it took several.
    """

    label: HostLabel
    facts: Mapping[str, object]
    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    after: list[AfterRun] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        """How many tests that ran ended so."""
        return sum(record.outcome == outcome and record.ran for record in self.records)

    @property
    def not_run(self) -> int:
        """How many planned tests never began."""
        return sum(not record.ran for record in self.records)


def bisect_status(results: Sequence[HostResult]) -> int:
    """Return the exit status that tells git bisect a bad commit from one that can't be judged."""
    if any(result.count("failed") for result in results):
        return exit_status.FAILED
    left = any(result.count("error") or result.not_run for result in results)
    passed = any(result.count("passed") for result in results)
    return 0 if passed and not left else exit_status.BISECT_SKIP


def status(results: Sequence[HostResult]) -> int:
    """Return the exit status for all hosts together: an error is no pass."""
    passed, failed, error = (
        sum(result.count(outcome) for result in results)
        for outcome in ("passed", "failed", "error")
    )
    # What was left out of a run that passed so far might have failed.
    if failed or error or (passed and any(result.not_run for result in results)):
        return exit_status.FAILED
    return 0 if passed else exit_status.NOTHING_RAN
