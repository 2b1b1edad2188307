# SPDX-License-Identifier: MIT
"""A fake kernel that answers by a table: what tests of the binding talk to instead of /dev/kvm."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib

KVM_FD = 1001  # numbers that are no fd of this process: they reach the fake kernel alone
VM_FD = 1002
DEVICE_FD = 1003
MMAP_SIZE = 12288


class FakeKernel:
    """Answers ioctls from a table by name; keeps the last one's fd and argument, decoded."""

    def __init__(self) -> None:
        self.answers: dict[str, int | Callable[[Any], int]] = {
            "KVM_GET_VCPU_MMAP_SIZE": MMAP_SIZE,
        }
        self.fd = -1
        self.name = ""
        self.argument: Any = None
        self._names = {
            int(getattr(lib, name)): name
            for name in dir(lib)
            if name.startswith("KVM_") and isinstance(getattr(lib, name), int)
            if getattr(lib, name) >> 8 & 0xFF == 0xAE
        }

    def issue(self, fd: int, request: int, argument: Any) -> int:
        self.fd = fd
        self.name = self._names[request]
        self.argument = ioctl.decode(argument)
        answer = self.answers.get(self.name, 0)
        return answer(argument) if callable(answer) else answer


def disowned(thing: OwnedFd) -> None:
    """Forget the number: it was never an fd of this process."""
    thing._fd = -1


def mappable() -> int:
    """Return an fd that can be mapped as a vCPU's can."""
    fd = os.memfd_create("vcpu", os.MFD_CLOEXEC)
    os.truncate(fd, MMAP_SIZE)
    return fd
