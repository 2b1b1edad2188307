# SPDX-License-Identifier: MIT
"""KVM's x86 VM types, as KVM_CREATE_VM takes them (KVM_X86_*_VM in asm/kvm.h)."""

from __future__ import annotations

from enum import IntEnum


class VmType(IntEnum):
    """A VM type; its value is what KVM_CREATE_VM takes and its bit in KVM_CAP_VM_TYPES."""

    DEFAULT = 0
    SW_PROTECTED = 1
    SEV = 2
    SEV_ES = 3
    SNP = 4
    TDX = 5

    @property
    def label(self) -> str:
        """The name used in scenario ids and on the command line, such as ``sev-es``."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, name: str | VmType | int) -> VmType:
        """Return the type called `name` (``default``, ``sw-protected``, ``sev``, ``snp``, ...).

        Raises ValueError, naming the known types, for any other, and for a number of none.
        """
        if isinstance(name, VmType):
            return name
        for vm_type in cls:
            if name == vm_type or vm_type.label == str(name).lower().replace("_", "-"):
                return vm_type
        known = ", ".join(f"{vm_type.label} ({int(vm_type)})" for vm_type in cls)
        raise ValueError(f"unknown VM type {name!r}: one of {known}")


#: The types whose guests are kept from the host, which takes hardware of its own.
CONFIDENTIAL = frozenset({VmType.SEV, VmType.SEV_ES, VmType.SNP, VmType.TDX})
