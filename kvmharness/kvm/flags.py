# SPDX-License-Identifier: MIT
"""Flags of the VM's ioctls, by their kernel names without the prefix; each is an int as well."""

from __future__ import annotations

from enum import IntFlag


class MemFlag(IntFlag):
    """KVM_MEM_*: what a memslot is (KVM_SET_USER_MEMORY_REGION)."""

    LOG_DIRTY_PAGES = 1 << 0
    READONLY = 1 << 1
    GUEST_MEMFD = 1 << 2


class GuestMemfdFlag(IntFlag):
    """GUEST_MEMFD_FLAG_* (6.18): what a guest_memfd can do (KVM_CREATE_GUEST_MEMFD)."""

    MMAP = 1 << 0
    INIT_SHARED = 1 << 1


class MemoryAttribute(IntFlag):
    """KVM_MEMORY_ATTRIBUTE_*: what a page is to the guest (KVM_SET_MEMORY_ATTRIBUTES)."""

    PRIVATE = 1 << 3


class IrqfdFlag(IntFlag):
    """KVM_IRQFD_FLAG_*."""

    DEASSIGN = 1 << 0
    RESAMPLE = 1 << 1


class IoeventfdFlag(IntFlag):
    """KVM_IOEVENTFD_FLAG_*: a port instead of MMIO, a value to compare, or taking it away."""

    DATAMATCH = 1 << 0
    PIO = 1 << 1
    DEASSIGN = 1 << 2
    VIRTIO_CCW_NOTIFY = 1 << 3
