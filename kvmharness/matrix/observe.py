# SPDX-License-Identifier: MIT
"""Runs inside a host: observes scenarios and writes a line of JSON for each to standard output.

    python -m kvmharness.matrix.observe VM_TYPE ID...

A line ``{"start": ID}`` goes before each, so that whoever reads knows the culprit when nothing
follows; then ``{"id": ID, "result": ...}`` with what model.Cell holds. Nothing is asserted.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import Any

from kvmharness import Kvm, MissingCapability, RunTimeout
from kvmharness.kvm.vmtypes import VmType
from kvmharness.report import trace_text
from kvmharness.scenarios import catalog
from kvmharness.scenarios.engine import Scenario, observe
from kvmharness.suite.deadline import Watchdog, deadline

#: Seconds for one scenario.
DEADLINE = 120.0
#: Lines of ioctls kept of a scenario that makes thousands: its beginning and its end.
_TRACE_HEAD, _TRACE_TAIL = 60, 20
#: Kernel-log lines kept of a scenario.
_LOG_LINES = 200


def main(arguments: list[str]) -> int:
    """Observe the scenarios named; 0 unless /dev/kvm itself can't be had."""
    vm_type, *ids = arguments
    scenarios = catalog.scenarios(VmType.parse(vm_type))
    watchdog = Watchdog()
    try:
        with Kvm.open() as kvm:
            for scenario_id in ids:
                _say({"start": scenario_id})
                watchdog.cover(DEADLINE)
                _say({"id": scenario_id, **_observe(scenarios[scenario_id], kvm)})
    except MissingCapability as error:
        _say({"absent": str(error)})
    finally:
        watchdog.close()
    return 0


def _observe(scenario: Scenario, kvm: Kvm) -> dict[str, Any]:
    began = time.monotonic()
    try:
        with deadline(DEADLINE, lambda: RunTimeout(f"still running after {DEADLINE:g} s")):
            outcome = observe(scenario, kvm)
    except MissingCapability as error:
        return {"result": "skip", "reason": str(error)}
    except RunTimeout as error:
        return {"result": "hang", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 (a scenario that fails is a cell; the rest go on)
        return {
            "result": "error",
            "reason": f"{type(error).__name__}: {error}",
            "log_lines": traceback.format_exc().splitlines(),
        }
    record = outcome.as_json()
    del record["scenario"]
    record["trace"] = _cut(trace_text.lines(outcome.trace))
    record["log_lines"] = record["log_lines"][:_LOG_LINES]
    record["seconds"] = round(time.monotonic() - began, 3)
    return record


def _cut(lines: list[str]) -> list[str]:
    left_out = len(lines) - _TRACE_HEAD - _TRACE_TAIL
    if left_out <= 0:
        return lines
    return [*lines[:_TRACE_HEAD], f"... {left_out} lines left out ...", *lines[-_TRACE_TAIL:]]


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
