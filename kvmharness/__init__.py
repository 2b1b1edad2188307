# SPDX-License-Identifier: MIT
"""kvmharness: KVM's guest_memfd and confidential-VM launch ioctls from Python, one at a time.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmharness.builder import Machine, VmBuilder
    from kvmharness.errors import (
        HarnessError,
        InaccessibleMemory,
        KvmError,
        MissingCapability,
        RunTimeout,
    )
    from kvmharness.guest_memfd import GuestMemfd
    from kvmharness.ioctl import Result
    from kvmharness.payload import Payload
    from kvmharness.source import SourceBuffer
    from kvmharness.system import Kvm
    from kvmharness.vcpu import Vcpu
    from kvmharness.vm import Vm
    from kvmharness.vmtypes import VmType

__version__ = "0.1.0"

_HOME = {
    "GuestMemfd": "guest_memfd",
    "HarnessError": "errors",
    "InaccessibleMemory": "errors",
    "Kvm": "system",
    "KvmError": "errors",
    "Machine": "builder",
    "MissingCapability": "errors",
    "Payload": "payload",
    "Result": "ioctl",
    "RunTimeout": "errors",
    "SourceBuffer": "source",
    "Vcpu": "vcpu",
    "Vm": "vm",
    "VmBuilder": "builder",
    "VmType": "vmtypes",
}

__all__ = [
    "GuestMemfd",
    "HarnessError",
    "InaccessibleMemory",
    "Kvm",
    "KvmError",
    "Machine",
    "MissingCapability",
    "Payload",
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
