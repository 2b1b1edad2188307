# SPDX-License-Identifier: MIT
"""Which scenarios there are, by VM type: SNP and TDX share what populates."""

from __future__ import annotations

from importlib import import_module

from kvmharness.errors import UsageError
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios.scenario import SCENARIOS, Scenario

#: The modules in which the scenarios of a VM type are declared.
_SHARED = ("populate", "populate_ranges", "populate_slots", "populate_races", "mapped_pages")
_HOMES = {
    VmType.DEFAULT: ("guest_memfd", "guest_memfd_pages"),
    VmType.SNP: (
        *_SHARED,
        *("snp", "snp_refused_pages", "snp_given", "snp_failures", "snp_pointers"),
    ),
    VmType.TDX: (*_SHARED, "tdx", "tdx_given", "tdx_failures", "tdx_pointers"),
}


def vm_types() -> list[VmType]:
    """Return the VM types that have scenarios."""
    return sorted(_HOMES)


def scenarios(vm_type: VmType) -> dict[str, Scenario]:
    """Return the scenarios of one VM type, by id, in the order they are declared."""
    if vm_type not in vm_types():
        known = ", ".join(known.label for known in vm_types())
        raise UsageError(f"no scenarios for {vm_type.label} VMs; there are some for: {known}")
    for module in _HOMES[vm_type]:
        import_module(f"kvmharness.scenarios.{module}")
    return {name: found for name, found in SCENARIOS.items() if found.vm_type is vm_type}


def all_scenarios() -> dict[str, Scenario]:
    """Return every scenario of every VM type, by id."""
    return {name: found for vm_type in vm_types() for name, found in scenarios(vm_type).items()}
