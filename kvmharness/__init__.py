# SPDX-License-Identifier: MIT
"""kvmharness: KVM's guest_memfd and confidential-VM launch ioctls from Python, one at a time.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmharness.errors import (
        HarnessError,
        InaccessibleMemory,
        KernelFault,
        MissingCapability,
        NotTheKernel,
        PrivateMemory,
        RunTimeout,
    )
    from kvmharness.kvm.guest_memfd import GuestMemfd
    from kvmharness.kvm.result import KvmError, Result
    from kvmharness.kvm.system import Kvm
    from kvmharness.kvm.vcpu import Vcpu
    from kvmharness.kvm.vm import Vm
    from kvmharness.kvm.vmtypes import VmType
    from kvmharness.launch.source import SourceBuffer
    from kvmharness.machine.builder import VmBuilder
    from kvmharness.machine.machine import Machine
    from kvmharness.machine.payload import Payload

__version__ = "0.1.0"

_HOME = {
    "GuestMemfd": "kvm.guest_memfd",
    "HarnessError": "errors",
    "InaccessibleMemory": "errors",
    "KernelFault": "errors",
    "Kvm": "kvm.system",
    "KvmError": "kvm.result",
    "Machine": "machine.machine",
    "MissingCapability": "errors",
    "NotTheKernel": "errors",
    "Payload": "machine.payload",
    "PrivateMemory": "errors",
    "Result": "kvm.result",
    "RunTimeout": "errors",
    "SourceBuffer": "launch.source",
    "Vcpu": "kvm.vcpu",
    "Vm": "kvm.vm",
    "VmBuilder": "machine.builder",
    "VmType": "kvm.vmtypes",
}

__all__ = [
    "GuestMemfd",
    "HarnessError",
    "InaccessibleMemory",
    "KernelFault",
    "Kvm",
    "KvmError",
    "Machine",
    "MissingCapability",
    "NotTheKernel",
    "Payload",
    "PrivateMemory",
    "Result",
    "RunTimeout",
    "SourceBuffer",
    "Vcpu",
    "Vm",
    "VmBuilder",
    "VmType",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"kvmharness.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
