# SPDX-License-Identifier: MIT
"""A vCPU's run page as a typed view: what KVM_RUN is told, and what it says beside the exit."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from kvmharness.errors import HarnessError
from kvmharness.kvm.events import VcpuEvents
from kvmharness.kvm.exit_reader import read_exit
from kvmharness.kvm.exits import AnyExit
from kvmharness.kvm.mapping import Mapping
from kvmharness.kvm.registers import Regs, Sregs
from kvmharness.kvm.structs import Struct, inside


class Sync(IntFlag):
    """KVM_SYNC_X86_*: which registers KVM_RUN leaves in the run page, or takes from there."""

    REGS = 1 << 0
    SREGS = 1 << 1
    EVENTS = 1 << 2


class SyncRegs(Struct, kind="kvm_sync_regs"):
    """struct kvm_sync_regs: registers that KVM_RUN takes and leaves in the run page."""

    regs: Regs = inside(Regs)
    sregs: Sregs = inside(Sregs)
    events: VcpuEvents = inside(VcpuEvents)


class _SyncArea(Struct):
    """The union of struct kvm_run that has the registers."""

    regs: SyncRegs = inside(SyncRegs)


class KvmRun(Struct, kind="kvm_run"):
    """struct kvm_run, without the exits: ``exit`` is the last one, typed.

    `kvm_valid_regs` (Sync) asks KVM_RUN to leave registers in ``sync``, and `kvm_dirty_regs` to
    take them from there (KVM_CAP_SYNC_REGS).

    That of a Vcpu is its run page itself, and HarnessError once the vCPU is closed; a copy, or what
    from_bytes() gives, is memory of its own.
    """

    request_interrupt_window: int = 0
    immediate_exit: int = 0
    exit_reason: int = 0
    ready_for_interrupt_injection: int = 0
    if_flag: int = 0
    flags: int = 0
    cr8: int = 0
    apic_base: int = 0
    kvm_valid_regs: int = 0
    kvm_dirty_regs: int = 0
    s: _SyncArea = inside(_SyncArea)

    @property
    def sync(self) -> SyncRegs:
        """The registers that KVM_RUN takes and leaves here."""
        return self.s.regs

    @property
    def exit(self) -> AnyExit:
        """What the page says of the exit, as it is now. KernelFault: it can't be.

        A copy has not the bytes of an OUT, which lie behind the struct: KernelFault for that too.
        """
        size = self._owner[0].size if isinstance(self._owner, tuple) else None
        return read_exit(self.pointer, size=size)

    @classmethod
    def mapped(cls, mapping: Mapping) -> KvmRun:
        """Make the view of a vCPU's `mapping`."""
        made = cls.__new__(cls)
        # The pointer keeps the memory there, as what nobody uses, for who kept a part of the view.
        made._owner = (mapping, mapping.pointer("struct kvm_run *"))
        return made

    @property
    def pointer(self) -> Any:
        """The cffi pointer. HarnessError once the vCPU is closed."""
        if not isinstance(self._owner, tuple):
            return self._owner
        mapping, mapped = self._owner
        if mapping.closed:
            raise HarnessError("the vCPU is closed: its kvm_run is unmapped")
        return mapped

    @pointer.setter
    def pointer(self, made: Any) -> None:
        self._owner = made
