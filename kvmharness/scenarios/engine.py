# SPDX-License-Identifier: MIT
"""observe() runs a scenario and gives its Outcome: steps, kernel log, digest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmharness.errors import MissingCapability
from kvmharness.kernel_log.classify import texts
from kvmharness.kernel_log.watch import KernelWatch
from kvmharness.kvm import ioctl
from kvmharness.scenarios import needs
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


def observe(scenario: Scenario, kvm: Kvm, allowed_log: Iterable[re.Pattern[str]] = ()) -> Outcome:
    """Run a scenario on this host's kernel and return what it showed.

    `allowed_log` are patterns of lines in the kernel's log that say nothing of the kernel, besides
    those of splats.toml. Raises MissingCapability where the host can't run the scenario; a call's
    failure is an outcome, not an exception.
    """
    require(scenario, kvm)
    outcome = Outcome(scenario.id)
    rearm_warnings()
    with closing(KernelWatch.open(allowed_log)) as kernel:
        bench = scenario.bench(kvm, outcome)
        with ioctl.recording() as trace, bench.stack:
            scenario.action(bench)
            outcome.digest = bench.launch_digest()
            outcome.predicted_digest = bench.predicted_digest()
            outcome.lost = bench.lost()
            outcome.rmp = bench.page_counts()
            bench.take_locks()
        # When all is closed: what hardware would have faulted on shows when pages go back.
        said = kernel.take()
        outcome.log = texts(said.findings) if kernel.sees_log else None
    outcome.log_lines = [line.text for line in said.lines]
    outcome.trace = trace
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
