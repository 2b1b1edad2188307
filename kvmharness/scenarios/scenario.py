# SPDX-License-Identifier: MIT
"""A scenario: an id, what it needs, and what it does; and all that are declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.needs import Need

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm
    from kvmharness.scenarios.outcome import Outcome


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
