# SPDX-License-Identifier: MIT
"""A fake kernel that answers by a table: what tests of the binding talk to instead of /dev/kvm."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib

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

    def issue_many(
        self, fd: int, request: int, structs: Any, size: int, distinct: int, count: int, done: Any
    ) -> int:
        """Do as the shim does, a few a turn."""
        for _ in range(min(3, count - done[0])):
            struct = ffi.cast(_POINTERS[self._names[request]], structs + done[0] % distinct * size)
            ret = self.issue(fd, request, struct)
            if ret < 0:
                return ret
            done[0] += 1
        return 0


#: The structs of those that are issued in numbers.
_POINTERS = {
    "KVM_SET_MEMORY_ATTRIBUTES": "struct kvm_memory_attributes *",
    "KVM_SET_USER_MEMORY_REGION": "struct kvm_userspace_memory_region *",
    "KVM_SET_USER_MEMORY_REGION2": "struct kvm_userspace_memory_region2 *",
}


def disowned(thing: OwnedFd) -> None:
    """Forget the number: it was never an fd of this process."""
    thing._fd = -1


def mappable() -> int:
    """Return an fd that can be mapped as a vCPU's can."""
    fd = os.memfd_create("vcpu", os.MFD_CLOEXEC)
    os.truncate(fd, MMAP_SIZE)
    return fd
