# SPDX-License-Identifier: MIT
"""observe() runs a scenario and gives its Outcome: steps, kernel log, digest."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmharness.errors import MissingCapability
from kvmharness.kernel_log import KernelLog
from kvmharness.kvm import ioctl
from kvmharness.scenarios import needs
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


def observe(scenario: Scenario, kvm: Kvm) -> Outcome:
    """Run a scenario on this host's kernel and return what it showed.

    Raises MissingCapability where the host can't run it; a call's failure is an outcome, not an
    exception.
    """
    require(scenario, kvm)
    outcome = Outcome(scenario.id)
    rearm_warnings()
    log = KernelLog.open()
    bench = scenario.bench(kvm, outcome)
    try:
        with ioctl.recording() as trace, bench.stack:
            scenario.action(bench)
            outcome.digest = bench.launch_digest()
            outcome.predicted_digest = bench.predicted_digest()
            outcome.rmp = bench.page_counts()
    finally:
        if log is not None:
            outcome.log_lines = [line.text for line in log.new_lines()]
            log.close()
    outcome.trace = trace
    outcome.log = classify(outcome.log_lines)
    outcome.log += bench.faults()
    return outcome


def require(scenario: Scenario, kvm: Kvm) -> None:
    """Raise MissingCapability, with the reason, if this host can't run the scenario."""
    if scenario.vm_type not in kvm.vm_types():
        raise MissingCapability(scenario.vm_type.label, kvm.why_no_vm_type(scenario.vm_type))
    for need in scenario.needs:
        if reason := needs.why_not(need, kvm):
            raise MissingCapability(need, reason)


def rearm_warnings() -> None:
    """Have WARN_ON_ONCE warn again: else only the first scenario to trip one would show it."""
    with suppress(OSError):
        Path("/sys/kernel/debug/clear_warn_once").write_text("1")


#: A WARN names its function as `WARNING: CPU: 0 PID: 9 at file.c:1 function+0x1/0x2 [kvm]` up to
#: 6.18 and as `WARNING: file.c:1 at function+0x1/0x2 [kvm], CPU#0: ...` from 6.19.
_WARNING = re.compile(r"WARNING: .*?(\w[\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_OTHERS = (
    (re.compile(r"\bBUG: ([^,:\n]+)"), "BUG"),
    (re.compile(r"\bOops: (\w+)"), "Oops"),
    (re.compile(r"(RMP fault|SEV-SNP: Leaking|SEV-SNP: .*failed)"), "RMP"),
    (re.compile(r"(possible circular locking dependency|inconsistent lock state)"), "lockdep"),
)


def classify(lines: list[str]) -> list[str]:
    """Reduce kernel-log lines to what a contract can promise: ``WARNING kvm_gmem_populate``."""
    found = []
    for line in lines:
        if line.startswith("snp_standin: "):
            continue  # what the stand-in counts is asked of it, not read in the log
        if match := _WARNING.search(line):
            # The compiler splits and renames functions: .constprop.0 is not the source's name.
            found.append(f"WARNING {match[1].split('.')[0]}")
            continue
        for pattern, name in _OTHERS:
            if match := pattern.search(line):
                found.append(f"{name} {match[1]}")
    return found
