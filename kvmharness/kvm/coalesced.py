# SPDX-License-Identifier: MIT
"""Coalesced MMIO and PIO: writes that the kernel collects in a ring instead of an exit each."""

from __future__ import annotations

from typing import Any

from kvmharness.errors import KernelFault
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import PAGE_SIZE, Mapping
from kvmharness.kvm.result import Result
from kvmharness.record import Record

_RING = "struct kvm_coalesced_mmio_ring"
_ENTRY = "struct kvm_coalesced_mmio"

#: How many writes the ring holds, and one place that stays free (KVM_COALESCED_MMIO_MAX).
RING_ENTRIES = (PAGE_SIZE - int(ffi.sizeof(_RING))) // int(ffi.sizeof(_ENTRY))


class CoalescedWrite(Record, frozen=True):
    """A write of `data` to `address`, a gpa or with `is_pio` a port."""

    address: int
    data: bytes
    is_pio: bool


class VmCoalescedTry:
    """The calls for coalesced zones, each giving a Result."""

    _vm: HasFileno

    def register_coalesced_mmio(self, address: int, size: int, *, pio: bool = False) -> Result[int]:
        """KVM_REGISTER_COALESCED_MMIO: collect writes to `size` bytes from `address`.

        `pio` (KVM_CAP_COALESCED_PIO, 4.20): ports. EINVAL for another value than 0 and 1.
        """
        zone = make("struct kvm_coalesced_mmio_zone *", addr=address, size=size, pio=int(pio))
        return ioctl.call(self._vm.fileno(), "KVM_REGISTER_COALESCED_MMIO", zone)

    def unregister_coalesced_mmio(
        self, address: int, size: int, *, pio: bool = False
    ) -> Result[int]:
        """KVM_UNREGISTER_COALESCED_MMIO: the writes exit again."""
        zone = make("struct kvm_coalesced_mmio_zone *", addr=address, size=size, pio=int(pio))
        return ioctl.call(self._vm.fileno(), "KVM_UNREGISTER_COALESCED_MMIO", zone)


class VmCoalescedCalls:
    """The raising forms of VmCoalescedTry."""

    register_coalesced_mmio = raising(VmCoalescedTry.register_coalesced_mmio)
    unregister_coalesced_mmio = raising(VmCoalescedTry.unregister_coalesced_mmio)


class VcpuCoalescedCalls:
    """The ring, which all vCPUs of a VM share; each has it in its mapping."""

    _open_run: Any
    _mapping: Mapping

    def coalesced_writes(self) -> list[CoalescedWrite]:
        """Take the writes that were collected, in order, out of the VM's ring."""
        offset = int(lib.KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE_SIZE
        if self._mapping.size < offset + PAGE_SIZE:
            raise KernelFault(f"no ring in the {self._mapping.size:#x} bytes of a vCPU's mapping")
        start = ffi.cast("char *", self._open_run) + offset
        return take_writes(ffi.cast(f"{_RING} *", start))


def take_writes(ring: Any) -> list[CoalescedWrite]:
    """Empty a ``struct kvm_coalesced_mmio_ring *`` of one page.

    The guest can't write to it, the process can: a place outside the ring gives nothing.
    """
    taken = []
    entries = ffi.cast(f"{_ENTRY} *", ffi.cast("char *", ring) + ffi.sizeof(_RING))
    while ring.first != ring.last and max(ring.first, ring.last) < RING_ENTRIES:
        entry = entries[ring.first]
        data = bytes(ffi.buffer(entry.data)[: min(int(entry.len), 8)])
        taken.append(CoalescedWrite(int(entry.phys_addr), data, bool(entry.pio)))
        ring.first = (ring.first + 1) % RING_ENTRIES
    return taken
