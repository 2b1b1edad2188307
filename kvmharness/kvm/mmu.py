# SPDX-License-Identifier: MIT
"""What a VM's memory management keeps for itself: a page of guest memory, and its page tables."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result


class MmuTry:
    """The calls for a VM's own pages, each giving a Result."""

    _vm: HasFileno

    def set_identity_map_addr(self, gpa: int) -> Result[int]:
        """KVM_SET_IDENTITY_MAP_ADDR: a page that Intel hosts without unrestricted guest need.

        0 puts it back to 0xfffbc000. EINVAL after a vCPU was made.
        """
        address = ffi.new("__u64 *", u64("gpa", gpa))
        return ioctl.call(self._vm.fileno(), "KVM_SET_IDENTITY_MAP_ADDR", address)

    def set_nr_mmu_pages(self, pages: int) -> Result[int]:
        """KVM_SET_NR_MMU_PAGES: how many pages shadow page tables may take. EINVAL: too few."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_NR_MMU_PAGES", pages)


class MmuCalls:
    """The raising forms of MmuTry."""

    set_identity_map_addr = raising(MmuTry.set_identity_map_addr)
    set_nr_mmu_pages = raising(MmuTry.set_nr_mmu_pages)
