# SPDX-License-Identifier: MIT
"""One JSON object with everything: hosts, counts, every record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import kvmharness
from kvmharness.report.records import OUTCOMES
from kvmharness.report.result import HostResult

SCHEMA = "kvmharness.run/2"


def render(results: Sequence[HostResult], exit_status: int) -> str:
    """Return the results as JSON."""
    report = {
        "schema": SCHEMA,
        "version": kvmharness.__version__,
        "exit_status": exit_status,
        "summary": {outcome: sum(r.count(outcome) for r in results) for outcome in OUTCOMES}
        | {"not_run": sum(result.not_run for result in results)},
        "hosts": [
            {
                "kind": result.label.kind,
                "kernel": result.label.kernel,
                "emulated": result.label.emulated,
                "words": result.label.words,
                "seconds": round(result.seconds, 3),
                "facts": dict(result.facts),
                **{outcome: result.count(outcome) for outcome in OUTCOMES},
                "not_run": result.not_run,
                "after": [asdict(each) for each in result.after],
            }
            for result in results
        ],
        "records": [record.as_dict() for result in results for record in result.records],
    }
    return json.dumps(report, indent=2, default=str) + "\n"
