# SPDX-License-Identifier: MIT
"""What a result is worth: the host it was seen on, its kernel, and whether that was emulated."""

from __future__ import annotations

import os

from kvmharness import host_kinds
from kvmharness.host_kinds import NATIVE
from kvmharness.record import Record

#: Set by an emulated host for everything that runs inside it: its kind, such as ``emulated-snp``.
HOST_VARIABLE = "KVMHARNESS_HOST"
#: Set beside it: what its kernel is called, which uname does not say of one with other modules.
KERNEL_VARIABLE = "KVMHARNESS_HOST_KERNEL"


class HostLabel(Record, frozen=True):
    """Where something ran. `kind` is ``native`` or an emulated host's.

    `kernel` is its kernel's release, and what it was booted with that others of the release were
    not: ``7.3.4-1-amd64 kvm.tdp_mmu=0``.
    """

    kind: str
    kernel: str

    @property
    def emulated(self) -> bool:
        """Whether a stand-in took the hardware's place. Whatever is not known native, is not."""
        return self.kind != NATIVE

    @property
    def words(self) -> str:
        """Say it in a sentence's part: ``native host, Linux 6.18`` or with the warning."""
        if self.emulated:
            return f"{self.kind} host, Linux {self.kernel}: emulated, not a hardware result"
        return f"native host, Linux {self.kernel}: not emulated"


def current() -> HostLabel:
    """Return the label of the host this process runs on."""
    kind = os.environ.get(HOST_VARIABLE) or NATIVE
    if kind != NATIVE and (kernel := os.environ.get(KERNEL_VARIABLE)):
        return HostLabel(kind, kernel)
    if kind == NATIVE:
        # Where a stand-in is loaded nothing is native, whatever is said.
        loaded = (
            emulated.name
            for emulated in host_kinds.EMULATED.values()
            if os.path.exists(f"/sys/module/{emulated.standin}")
        )
        kind = next(loaded, NATIVE)
    return HostLabel(kind, os.uname().release)
