# SPDX-License-Identifier: MIT
"""Which pages a guest has written: clearing the log bit by bit, and the dirty ring of a vCPU."""

from __future__ import annotations

from typing import Any, Protocol

from kvmharness.closing import Closing
from kvmharness.errors import HarnessError, InaccessibleMemory
from kvmharness.kvm import ioctl
from kvmharness.kvm.caps import Cap, enable_cap
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import MAP_SHARED, PAGE_SIZE, map_memory
from kvmharness.kvm.result import Result
from kvmharness.record import Record

#: Bytes of one entry of the ring.
ENTRY_SIZE = int(ffi.sizeof("struct kvm_dirty_gfn"))


class DirtyPage(Record, frozen=True):
    """A page that a vCPU wrote: `offset` in pages from the start of memslot `slot`."""

    slot: int
    offset: int


class VmDirtyTry:
    """The calls for dirty pages, each giving a Result. KVM_GET_DIRTY_LOG is beside the slots."""

    _vm: HasFileno

    def clear_dirty_log(
        self, slot: int, first_page: int, num_pages: int, bitmap: bytes
    ) -> Result[int]:
        """KVM_CLEAR_DIRTY_LOG (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): forget the pages of `bitmap`.

        Bit 0 is page `first_page` of the slot, which is a multiple of 64. ENOENT: no dirty log;
        EINVAL: an unaligned start, or past the slot's end; ENXIO: with a dirty ring alone.
        """
        words = (num_pages + 63) // 64 * 8  # the kernel reads whole 64-bit words
        if len(bitmap) * 8 < num_pages:
            raise ValueError(f"bitmap: {len(bitmap)} bytes for {num_pages} pages")
        copy = ffi.new("char[]", max(words, len(bitmap)))
        ffi.buffer(copy)[: len(bitmap)] = bitmap
        log = make(
            "struct kvm_clear_dirty_log *", slot=slot, num_pages=num_pages, first_page=first_page
        )
        log.dirty_bitmap = copy
        return ioctl.call(self._vm.fileno(), "KVM_CLEAR_DIRTY_LOG", log)

    def enable_dirty_ring(self, size: int) -> Result[int]:
        """KVM_ENABLE_CAP of KVM_CAP_DIRTY_LOG_RING_ACQ_REL: rings of `size` bytes, before vCPUs.

        A power of two, a page at least, at most what the capability says. EINVAL where it is
        missing, or there is a vCPU.
        """
        return enable_cap(self._vm, Cap.DIRTY_LOG_RING_ACQ_REL, [size])

    def reset_dirty_rings(self) -> Result[int]:
        """KVM_RESET_DIRTY_RINGS: protect again what was harvested; the value is how many pages."""
        return ioctl.call(self._vm.fileno(), "KVM_RESET_DIRTY_RINGS")


class VmDirtyCalls:
    """The raising forms of VmDirtyTry."""

    clear_dirty_log = raising(VmDirtyTry.clear_dirty_log)
    enable_dirty_ring = raising(VmDirtyTry.enable_dirty_ring)
    reset_dirty_rings = raising(VmDirtyTry.reset_dirty_rings)


class DirtyRing(Closing):
    """The dirty ring of one vCPU, mapped. One thread harvests it; the vCPU may run meanwhile.

    Close it: to the kernel the mapping is a use of the vCPU, so that the vCPU and its VM, with the
    memory that its slots pin, live on until both the Vcpu and the ring are closed.
    """

    def __init__(self, vcpu: HasFileno, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"size: a ring is whole pages, not {size} bytes")
        self.entries = size // ENTRY_SIZE
        offset = lib.KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE
        self._mapping = map_memory(size, flags=MAP_SHARED, fd=vcpu.fileno(), offset=offset)
        try:
            self._mapping.read(size - ENTRY_SIZE, ENTRY_SIZE)  # any page of a vCPU can be mapped
        except InaccessibleMemory:
            self._mapping.close()
            raise HarnessError(f"the VM's dirty rings have fewer than {size} bytes") from None
        # No memoryview between: the interpreter does not survive one in a cycle that is collected.
        memory = ffi.buffer(self._mapping.pointer(), size)
        self._ring: Any = ffi.from_buffer("struct kvm_dirty_gfn[]", memory)
        self._next = 0

    @property
    def closed(self) -> bool:
        """Whether the ring is unmapped."""
        return self._mapping.closed

    def harvest(self) -> list[DirtyPage]:
        """Return the pages written since, and mark them for KVM_RESET_DIRTY_RINGS."""
        if self.closed:
            raise HarnessError("the dirty ring is closed")
        found: list[DirtyPage] = []
        while len(found) < self.entries:
            # x86 makes stores visible in their order: flags that are set follow what they are of.
            entry = self._ring[self._next % self.entries]
            if not entry.flags & lib.KVM_DIRTY_GFN_F_DIRTY:
                break
            found.append(DirtyPage(int(entry.slot), int(entry.offset)))
            entry.flags = lib.KVM_DIRTY_GFN_F_RESET
            self._next += 1
        return found

    def close(self) -> None:
        """Unmap the ring."""
        self._mapping.close()


class _Vcpu(Protocol):
    def fileno(self) -> int: ...

    @property
    def closed(self) -> bool: ...


class VcpuDirtyCalls:
    """The dirty ring of a vCPU."""

    def dirty_ring(self: _Vcpu, size: int) -> DirtyRing:
        """Map the vCPU's dirty ring, of as many bytes as Vm.enable_dirty_ring was given.

        HarnessError where the VM has none, or it is shorter.
        """
        if self.closed:
            raise HarnessError("the vCPU is closed: it has no dirty ring any more")
        return DirtyRing(self, size)
