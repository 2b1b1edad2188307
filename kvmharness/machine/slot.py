# SPDX-License-Identifier: MIT
"""A memslot as built: where it lies, what backs it, and whether this VM can have that."""

from __future__ import annotations

import os
from typing import Literal

from kvmharness.errors import MissingCapability
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    Mapping,
    map_memory,
)
from kvmharness.kvm.vm import Vm
from kvmharness.record import Record

Backing = Literal["guest_memfd", "anonymous", "memfd"]


class Slot(Record, frozen=True):
    """One memslot as built: `mapping` is the host's view, `guest_memfd` what backs it, if one does.

    On a confidential VM `mapping` is the slot's shared half, and the guest_memfd its private one.
    """

    number: int
    gpa: int
    size: int
    flags: int
    backing: Backing
    mapping: Mapping
    guest_memfd: GuestMemfd | None = None
    guest_memfd_offset: int = 0

    def holds(self, gpa: int, size: int) -> bool:
        """Whether `size` bytes from `gpa` lie in this slot."""
        return self.gpa <= gpa and gpa + size <= self.gpa + self.size


def require_guest_memfd(vm: Vm, flags: int) -> None:
    """Raise MissingCapability, with the reason, if `vm` can't have a guest_memfd with `flags`."""
    if not vm.check_extension(lib.KVM_CAP_GUEST_MEMFD):
        raise MissingCapability(
            "guest_memfd",
            "KVM_CAP_GUEST_MEMFD is 0 for this VM: default VMs need Linux 6.18, confidential "
            "ones 6.8 with CONFIG_KVM_GUEST_MEMFD (before 6.18: CONFIG_KVM_PRIVATE_MEM)",
        )
    known = vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    if missing := flags & ~known:
        names = [
            name
            for name in ("GUEST_MEMFD_FLAG_MMAP", "GUEST_MEMFD_FLAG_INIT_SHARED")
            if missing & getattr(lib, name)
        ]
        raise MissingCapability(
            "guest_memfd " + " and ".join(names or [hex(missing)]),
            f"KVM_CAP_GUEST_MEMFD_FLAGS is {known:#x} for this VM (mappable guest_memfd came with "
            "Linux 6.18, for VM types whose memory starts shared)",
        )


def shared_memory(size: int, backing: Backing) -> Mapping:
    """Map `size` bytes for the half of a slot that the host sees: anonymous, or of a memfd."""
    if backing == "memfd":
        with OwnedFd(os.memfd_create("kvmharness-slot", os.MFD_CLOEXEC)) as fd:
            os.truncate(fd.fileno(), size)
            return map_memory(size, flags=MAP_SHARED, fd=fd.fileno())
    return map_memory(size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
