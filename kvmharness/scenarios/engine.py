# SPDX-License-Identifier: MIT
"""A scenario: an id, what it needs, and what it does. observe() runs one and gives its Outcome."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kvmharness.errors import MissingCapability
from kvmharness.kernel_log import KernelLog
from kvmharness.kvm import ioctl
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.step import Call, Fact, Tally
from kvmharness.standins import snp as standin

if TYPE_CHECKING:
    from kvmharness.kvm.result import Result
    from kvmharness.kvm.system import Kvm

#: What a scenario may need of a host beyond its VM type.
Need = Literal[
    "standin",
    "two_cpus",
    "hugetlb",
    "mappable_guest_memfd",
    "pre_fault",
    "memory_attributes",
    "no_memory_attributes",
]


class Bench:
    """Where a scenario works: /dev/kvm, the steps so far, and what is to be closed at the end."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        self.kvm = kvm
        self.outcome = outcome
        self.stack = ExitStack()

    def predicted_digest(self) -> str | None:
        """The digest this launch must have by now, in hex; None where it is not followed."""
        return None

    def launch_digest(self) -> str | None:
        """The digest as an emulated host's firmware has it; None on hardware."""
        return standin.launch_digest()

    def page_counts(self) -> dict[str, int] | None:
        """The pages that an emulated host's firmware holds, by state; None on hardware."""
        return standin.rmp_counts()

    def step(self, label: str, result: Result[Any]) -> Result[Any]:
        """Record a call that the contract holds the kernel to; gives the result back."""
        self.outcome.steps.append(Call.of(label, result))
        return result

    def tally(self, label: str, results: Iterable[Result[Any]]) -> None:
        """Record what many calls came to, where a race decides which of them fail."""
        self.outcome.steps.append(Tally.of(label, results))

    def fact(self, label: str, answer: str | int, note: str = "") -> None:
        """Record something established otherwise than by one call's result.

        `answer` is a number or a word of step.ANSWERS; `note` says more to a person.
        """
        self.outcome.steps.append(Fact(label, str(answer), note))


@dataclass(frozen=True)
class Scenario:
    """One thing to try. `action` does it on a Bench; `needs` are capabilities, never versions."""

    id: str
    vm_type: VmType
    summary: str
    action: Callable[[Any], None]
    bench: Callable[[Kvm, Outcome], Bench]
    needs: tuple[Need, ...] = ()
    destructive: bool = False


#: Every scenario, by id, in the order it was declared.
SCENARIOS: dict[str, Scenario] = {}


def register(scenario: Scenario) -> None:
    """Add a scenario; ids are unique."""
    if scenario.id in SCENARIOS:
        raise ValueError(f"scenario {scenario.id} is declared twice")
    SCENARIOS[scenario.id] = scenario


def observe(scenario: Scenario, kvm: Kvm) -> Outcome:
    """Run a scenario on this host's kernel and return what it showed.

    Raises MissingCapability where the host can't run it; a call's failure is an outcome, not an
    exception.
    """
    require(scenario, kvm)
    outcome = Outcome(scenario.id)
    rearm_warnings()
    log = KernelLog.open()
    host_writes = standin.host_writes()
    bench = scenario.bench(kvm, outcome)
    try:
        with ioctl.recording() as trace, bench.stack:
            scenario.action(bench)
            outcome.digest = bench.launch_digest()
            outcome.predicted_digest = bench.predicted_digest()
            outcome.rmp = bench.page_counts()
    finally:
        standin.clear_injection()
        if log is not None:
            outcome.log_lines = [line.text for line in log.new_lines()]
            log.close()
    outcome.trace = trace
    outcome.log = classify(outcome.log_lines)
    if standin.host_writes() > host_writes:
        outcome.log.append(HOST_WRITE)
    return outcome


def require(scenario: Scenario, kvm: Kvm) -> None:
    """Raise MissingCapability, with the reason, if this host can't run the scenario."""
    from kvmharness.scenarios import needs

    if scenario.vm_type not in kvm.vm_types():
        raise MissingCapability(scenario.vm_type.label, kvm.why_no_vm_type(scenario.vm_type))
    for need in scenario.needs:
        if reason := needs.why_not(need, kvm):
            raise MissingCapability(need, reason)


def rearm_warnings() -> None:
    """Have WARN_ON_ONCE warn again: else only the first scenario to trip one would show it."""
    with suppress(OSError):
        Path("/sys/kernel/debug/clear_warn_once").write_text("1")


#: What stands in a log for an RMP fault of the host: emulation goes on where hardware would not.
HOST_WRITE = "RMP host write to a guest's page"

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
