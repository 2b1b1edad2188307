# SPDX-License-Identifier: MIT
"""What a test needs of a host, and why a host doesn't have it.

A requirement's name is what ``--require`` takes: ``kvm``, a VM type (``snp``), or a capability
(``KVM_CAP_PRE_FAULT_MEMORY``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmharness.errors import MissingCapability, UsageError
from kvmharness.kvm.vmtypes import VmType

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm

KVM = "kvm"

#: A destructive test's reason to be skipped is a choice, never something the host lacks.
DESTRUCTIVE = "destructive"


def parse(name: str) -> str:
    """Return `name` as requirements are spelled here; UsageError for one that can't exist."""
    lower = name.strip().lower().replace("_", "-")
    if lower == KVM:
        return KVM
    if lower in (vm_type.label for vm_type in VmType):
        return lower
    upper = name.strip().upper().replace("-", "_")
    upper = upper if upper.startswith("KVM_CAP_") else f"KVM_CAP_{upper}"
    try:
        from kvmharness.kvm.ffi import lib
    except ImportError:
        # Not built here: whether the name exists is for the host's kernel harness to say.
        return upper
    if not hasattr(lib, upper):
        labels = ", ".join(vm_type.label for vm_type in VmType)
        raise UsageError(f"--require {name}: not kvm, a VM type ({labels}) or a KVM_CAP_ name")
    return upper


def of_missing(error: MissingCapability) -> str | None:
    """Return the requirement that a MissingCapability is about, None if it is another matter."""
    if error.what == "/dev/kvm":
        return KVM
    what = error.what.removeprefix("VM type ")
    if what.startswith("KVM_CAP_"):
        return what.split()[0]
    try:
        return VmType.parse(what).label
    except ValueError:
        return None


class HostAnswers:
    """What this host says of requirements, each asked once."""

    def __init__(self) -> None:
        self._types: dict[str, str | None] = {}
        self._caps: dict[tuple[str, str | None], int] = {}

    def why_no_vm_type(self, name: str) -> str | None:
        """Return why there are no VMs of the type called `name`, None if there are.

        Raises MissingCapability without /dev/kvm.
        """
        label = VmType.parse(name).label
        if label not in self._types:
            with _open() as kvm:
                vm_type = VmType.parse(label)
                there = vm_type in kvm.vm_types()
                self._types[label] = None if there else kvm.why_no_vm_type(vm_type)
        return self._types[label]

    def capability(self, name: str, vm_type: str | None = None) -> int:
        """Return what the host says of the capability `name`: /dev/kvm, or a VM of `vm_type`.

        Raises MissingCapability without /dev/kvm, or without the type.
        """
        if (name, vm_type) not in self._caps:
            from kvmharness.kvm.ffi import lib

            number = getattr(lib, name, None)
            if number is None:
                raise UsageError(f"requires_cap: no capability is called {name!r}")
            with _open() as kvm:
                if vm_type is None:
                    value = kvm.check_extension(number)
                else:
                    with kvm.create_vm(VmType.parse(vm_type)) as vm:
                        value = vm.check_extension(number)
            self._caps[name, vm_type] = value
        return self._caps[name, vm_type]

    def why_no_capability(self, name: str, bits: int = 0, vm_type: str | None = None) -> str | None:
        """Return why the capability `name` (with all of `bits`) is not there, None if it is."""
        value = self.capability(name, vm_type)
        where = f"on a {vm_type} VM" if vm_type else "on /dev/kvm"
        if not value:
            return f"0 {where}"
        if value & bits != bits:
            return f"{value:#x} {where}, without all bits of {bits:#x}"
        return None


def _open() -> Kvm:
    from kvmharness.kvm.system import Kvm

    return Kvm.open()
