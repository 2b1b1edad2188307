# SPDX-License-Identifier: MIT
"""A guest_memfd: the file that holds a VM's private (and, since 6.18, shared) memory."""

from __future__ import annotations

import os

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.fields import call_c, make
from kvmharness.kvm.ioctl import raising, system_call
from kvmharness.kvm.mapping import MAP_SHARED, PROT_READ, PROT_WRITE, Mapping, try_mmap
from kvmharness.kvm.memslots import Bindable
from kvmharness.kvm.result import Result

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02


class GuestMemfdTry:
    """The calls a guest_memfd takes, each giving a Result."""

    def __init__(self, guest_memfd: GuestMemfd) -> None:
        self._memfd = guest_memfd

    def mmap(
        self,
        size: int | None = None,
        offset: int = 0,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_SHARED,
    ) -> Result[Mapping]:
        """mmap(2): map `size` bytes (default: to the end) from `offset` (bytes).

        ENODEV without GUEST_MEMFD_FLAG_MMAP, EINVAL for MAP_PRIVATE (6.18: virt/kvm/guest_memfd.c,
        kvm_gmem_mmap). A touch of a page that is not shared raises SIGBUS.
        """
        length = max(self._memfd.size - offset, 0) if size is None else size
        return try_mmap(length, prot, flags, self._memfd.fileno(), offset)

    def fallocate(self, mode: int, offset: int, size: int) -> Result[int]:
        """fallocate(2) on `size` bytes from `offset` (bytes).

        EOPNOTSUPP for a mode without KEEP_SIZE or with a bit beyond PUNCH_HOLE, EINVAL for an
        unaligned range or one past the end (kvm_gmem_fallocate).
        """
        fd = self._memfd.fileno()
        ret = call_c(lib.kvmh_fallocate, fd=fd, mode=mode, offset=offset, size=size)
        return system_call("fallocate", ret, fd=fd, mode=mode, offset=offset, size=size)

    def punch_hole(self, offset: int, size: int) -> Result[int]:
        """fallocate(2) with PUNCH_HOLE: give back `size` bytes from `offset`; then zeros."""
        return self.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)

    def allocate(self, offset: int, size: int) -> Result[int]:
        """fallocate(2) with KEEP_SIZE: have the pages of `size` bytes from `offset` allocated."""
        return self.fallocate(FALLOC_FL_KEEP_SIZE, offset, size)

    def set_memory_attributes2(
        self, offset: int, size: int, attributes: int, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES2: convert `size` bytes from `offset` (bytes) in place.

        Queued for 7.4; ENOTTY where in-place conversion is off or unknown, EAGAIN while a page is
        pinned. ``written_back`` is (error_offset,), which the kernel sets only on failure.
        """
        arguments = make(
            "struct kvm_memory_attributes2 *",
            offset=offset,
            size=size,
            attributes=attributes,
            flags=flags,
        )
        return ioctl.call(
            self._memfd.fileno(),
            "KVM_SET_MEMORY_ATTRIBUTES2",
            arguments,
            written_back=lambda: (int(arguments.error_offset),),
        )


class GuestMemfd(Bindable, OwnedFd):
    """A guest_memfd of `size` bytes; made by ``Vm.create_guest_memfd``.

    While a VM has it bound to a memslot, the VM holds it: close() is HarnessError then.
    """

    def __init__(self, fd: int, size: int, flags: int) -> None:
        super().__init__(fd)
        self.size = size
        self.flags = flags
        self._bindings = set()

    @property
    def try_(self) -> GuestMemfdTry:
        """The same calls, each giving a Result."""
        return GuestMemfdTry(self)

    mmap = raising(GuestMemfdTry.mmap)
    fallocate = raising(GuestMemfdTry.fallocate)
    punch_hole = raising(GuestMemfdTry.punch_hole)
    allocate = raising(GuestMemfdTry.allocate)
    set_memory_attributes2 = raising(GuestMemfdTry.set_memory_attributes2)

    def close(self, *, let_go: bool = False) -> None:
        """Close the fd; closing twice does nothing.

        HarnessError, which names the slot, while a memslot has it bound; with `let_go` it is closed
        under the slot, whose memory lives on while a mapping or another fd of the file does.
        """
        if not self.closed:
            self._leave_slots(let_go)
        super().close()

    def __del__(self) -> None:
        if hasattr(self, "_bindings"):
            self.close(let_go=True)

    @property
    def blocks(self) -> int:
        """How many 512-byte blocks fstat(2) reports as allocated.

        guest_memfd keeps no block count up to 7.3, so this reads 0 however much is allocated.
        """
        return os.fstat(self.fileno()).st_blocks
