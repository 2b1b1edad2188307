# SPDX-License-Identifier: MIT
"""Runs inside a host: observes scenarios and writes a record of each to standard error.

    python -m kvmharness.matrix.observe VM_TYPE ID...

Events and records are those of a run of the suite (report/records.py), whose supervisor reads
along. Nothing is asserted: a scenario that came to an outcome has passed, with the outcome in its
record's details.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

from kvmharness import Kvm, MissingCapability, RunTimeout, labels
from kvmharness.kernel_log.log import say_begin
from kvmharness.kvm.vmtypes import VmType
from kvmharness.report import trace_text
from kvmharness.report.records import Outcome, Record, RecordWriter
from kvmharness.scenarios import catalog
from kvmharness.scenarios.engine import observe
from kvmharness.scenarios.scenario import Scenario
from kvmharness.suite.deadline import Watchdog, deadline
from kvmharness.suite.held import Held, HeldByKernel

#: Seconds for one scenario.
DEADLINE = 120.0
#: Lines of ioctls kept of a scenario that makes thousands: its beginning and its end.
_TRACE_HEAD, _TRACE_TAIL = 60, 20
#: Kernel-log lines kept of a scenario.
_LOG_LINES = 200


def main(arguments: list[str]) -> int:
    """Observe the scenarios named; 0 always: the records say what came of it."""
    vm_type, *ids = arguments
    scenarios = catalog.scenarios(VmType.parse(vm_type))
    writer = RecordWriter("/dev/fd/2")
    watchdog = Watchdog()
    held = HeldByKernel.open() if labels.current().emulated else None
    writer.event("plan", tests=[[scenario_id, scenario_id] for scenario_id in ids])
    try:
        with Kvm.open() as kvm:
            before = held.snapshot() if held else Held()
            for scenario_id in ids:
                writer.event("start", id=scenario_id, nodeid=scenario_id)
                say_begin(scenario_id)
                watchdog.cover(DEADLINE)
                record = _observe(scenarios[scenario_id], kvm)
                if held and "outcome" in record.details:
                    before, kept = held.left_since(before)
                    record.details["outcome"]["held"] = kept.describe()
                writer.record(record)
    except MissingCapability as error:
        for scenario_id in ids:
            writer.record(_record(scenario_id, "skipped", reason=str(error)))
    finally:
        watchdog.close()
    writer.event("end", exitstatus=0)
    writer.close()
    return 0


def _observe(scenario: Scenario, kvm: Kvm) -> Record:
    began = time.monotonic()
    try:
        with deadline(DEADLINE, lambda: RunTimeout(f"still running after {DEADLINE:g} s")):
            outcome = observe(scenario, kvm)
    except MissingCapability as error:
        return _record(scenario.id, "skipped", reason=str(error))
    except RunTimeout as error:
        return _record(scenario.id, "failed", reason=str(error), cause="timeout")
    except Exception as error:  # noqa: BLE001 (a scenario that fails is a cell; the rest go on)
        reason = f"{type(error).__name__}: {error}"
        return _record(scenario.id, "error", reason=reason, report=traceback.format_exc())
    seen = outcome.as_json()
    seen["trace"] = _cut(trace_text.lines(outcome.trace))
    seen["log_lines"] = seen["log_lines"][:_LOG_LINES]
    seconds = round(time.monotonic() - began, 3)
    return _record(scenario.id, "passed", seconds=seconds, details={"outcome": seen})


def _record(scenario_id: str, outcome: Outcome, **values: Any) -> Record:
    return Record.of(labels.current(), scenario_id, scenario_id, outcome, **values)


def _cut(lines: list[str]) -> list[str]:
    left_out = len(lines) - _TRACE_HEAD - _TRACE_TAIL
    if left_out <= 0:
        return lines
    return [*lines[:_TRACE_HEAD], f"... {left_out} lines left out ...", *lines[-_TRACE_TAIL:]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
