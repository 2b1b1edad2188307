# SPDX-License-Identifier: MIT
"""Which scenarios there are, by VM type: each type's are declared in a module <type>_scenarios."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.populate.scenario import SCENARIOS, Scenario
from kvmharness.vmtypes import VmType

_SUFFIX = "_scenarios"


def vm_types() -> list[VmType]:
    """Return the VM types that have scenarios."""
    files = Path(__file__).parent.glob(f"*{_SUFFIX}.py")
    return sorted(VmType.parse(path.stem.removesuffix(_SUFFIX)) for path in files)


def scenarios(vm_type: VmType) -> dict[str, Scenario]:
    """Return the scenarios of one VM type, by id, in the order they are declared."""
    if vm_type not in vm_types():
        known = ", ".join(known.label for known in vm_types())
        raise UsageError(f"no scenarios for {vm_type.label} VMs; there are some for: {known}")
    import_module(f"kvmharness.populate.{vm_type.label}{_SUFFIX}")
    return {name: found for name, found in SCENARIOS.items() if found.vm_type is vm_type}


def all_scenarios() -> dict[str, Scenario]:
    """Return every scenario of every VM type, by id."""
    return {name: found for vm_type in vm_types() for name, found in scenarios(vm_type).items()}
