# SPDX-License-Identifier: MIT
"""VmBuilder: from a description of memory, vCPUs and payload to a Machine that runs.

Every step is a method of its own, and what it made is an attribute of the Machine: a test that
wants a step done otherwise leaves it out and does it with the Machine's ioctls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import (
    PAGE_SIZE,
)
from kvmharness.kvm.system import Kvm, made_or_missing
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.tdx import TdxVcpu, start_td
from kvmharness.machine.cpu_mode import page_tables, page_tables_size
from kvmharness.machine.entry import PayloadPlan
from kvmharness.machine.machine import Machine
from kvmharness.machine.payload import Mode, Payload
from kvmharness.machine.slot import Backing, Slot, require_guest_memfd, shared_memory

#: Where the builder's own slot (page tables) goes: below the 4 GiB line's devices, above any
#: slot a small test uses.
PAGE_TABLE_GPA = 0xE000_0000

#: The VM types whose first command is KVM_SEV_INIT2.
SEV_TYPES = (VmType.SEV, VmType.SEV_ES, VmType.SNP)

_GIB = 1 << 30


@dataclass(frozen=True)
class _MemoryPlan:
    gpa: int
    size: int
    backing: Backing
    flags: int
    guest_memfd_flags: int | None


class VmBuilder:
    """Describes a VM; build() makes it. Methods return the builder, so that calls chain.

    `vm_type` is a name or a VmType. On a default VM a guest_memfd slot is made with MMAP and
    INIT_SHARED and mapped: the host fills it in place. On a confidential VM the slot has a private
    guest_memfd beside an anonymous shared half, and vCPUs start as the launch leaves them.
    """

    def __init__(self, kvm: Kvm, vm_type: VmType | str = VmType.DEFAULT) -> None:
        self._kvm = kvm
        self._vm_type = VmType.parse(vm_type)
        self._memory: list[_MemoryPlan] = []
        self._vcpus = 0
        self._payloads: list[PayloadPlan] = []
        self._before_vcpus: list[Callable[[Machine], object]] = []
        self._initialized = True

    def memory(
        self,
        gpa: int = 0,
        size: int = 2 << 20,
        backing: Backing = "guest_memfd",
        *,
        flags: int = 0,
        guest_memfd_flags: int | None = None,
    ) -> Self:
        """Add a memslot of `size` bytes at `gpa` (bytes), in the order of the slot numbers.

        `flags` are KVM_MEM_* (KVM_MEM_GUEST_MEMFD is added for a guest_memfd); `guest_memfd_flags`
        override what the VM type gives.
        """
        self._memory.append(_MemoryPlan(gpa, size, backing, flags, guest_memfd_flags))
        return self

    def guest_memfd(self, gpa: int = 0, size: int = 2 << 20, flags: int | None = None) -> Self:
        """Add a memslot backed by a guest_memfd; `flags` are GUEST_MEMFD_FLAG_*."""
        return self.memory(gpa, size, "guest_memfd", guest_memfd_flags=flags)

    def vcpus(self, count: int) -> Self:
        """Have `count` vCPUs, with ids from 0."""
        self._vcpus = count
        return self

    def payload(
        self,
        name: str | Payload,
        mode: Mode | str | None = None,
        *,
        vcpu: int | None = None,
        load_gpa: int | None = None,
        **arguments: int,
    ) -> Self:
        """Load a payload of vm_images and enter it with `arguments` (see its manifest entry).

        `mode` defaults to the payload's last: CPL3 in long mode, which every kind of host runs
        natively. `vcpu` is the one that runs it, by default all; at least that many are made.
        `load_gpa` (bytes) overrides the manifest's, for two payloads in one VM.
        """
        self._payloads.append(PayloadPlan.of(name, mode, vcpu, load_gpa, arguments))
        self._vcpus = max(self._vcpus, (vcpu or 0) + 1)
        return self

    def uninitialized(self) -> Self:
        """Leave out the VM type's first step, for a test that makes it itself.

        That is KVM_SEV_INIT2, or for a TD the split irqchip and KVM_TDX_INIT_VM.
        """
        self._initialized = False
        return self

    def before_vcpus(self, step: Callable[[Machine], object]) -> Self:
        """Call `step` with the Machine after its memory is made and before its vCPUs are."""
        self._before_vcpus.append(step)
        return self

    def build(self) -> Machine:
        """Make the VM. MissingCapability, with the reason, where the host can't; KvmError else."""
        if self._vm_type not in self._kvm.vm_types():
            raise MissingCapability(
                f"VM type {self._vm_type.label}", self._kvm.why_no_vm_type(self._vm_type)
            )
        for wanted in self._payloads:
            if wanted.vcpu is not None and wanted.vcpu >= self._vcpus:
                raise HarnessError(
                    f"payload {wanted.payload.name} is for vCPU {wanted.vcpu}, "
                    f"of {self._vcpus} from 0"
                )
        machine = made_or_missing(self._kvm.try_.create_vm(self._vm_type, Machine), self._vm_type)
        try:
            self._initialize(machine)
            for number, plan in enumerate(self._memory):
                machine.slots.append(self._add_slot(machine, number, plan))
            for step in self._before_vcpus:
                step(machine)
            for index in range(self._vcpus):
                self._add_vcpu(machine, index)
            if self._payloads:
                self._load_payloads(machine)
        except BaseException:
            machine.close()
            raise
        return machine

    # -------------------------------------------------------------- steps

    def _initialize(self, machine: Machine) -> None:
        """Do what a VM type needs before anything else; the launch itself is the caller's."""
        if self._initialized and self._vm_type in SEV_TYPES:
            machine.snp.init2()
        if self._initialized and self._vm_type is VmType.TDX:
            start_td(machine, self._kvm)

    def _add_slot(self, machine: Machine, number: int, plan: _MemoryPlan) -> Slot:
        if plan.backing == "guest_memfd":
            return self._add_guest_memfd_slot(machine, number, plan)
        mapping = shared_memory(plan.size, plan.backing)
        machine.own(mapping)
        machine.set_user_memory_region(number, plan.gpa, plan.size, mapping.address, plan.flags)
        return Slot(number, plan.gpa, plan.size, plan.flags, plan.backing, mapping)

    def _add_guest_memfd_slot(self, machine: Machine, number: int, plan: _MemoryPlan) -> Slot:
        flags = plan.guest_memfd_flags
        in_place = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
        if flags is None:
            flags = in_place if self._vm_type is VmType.DEFAULT else 0
        require_guest_memfd(machine, flags)
        guest_memfd = machine.create_guest_memfd(plan.size, flags)
        machine.own(guest_memfd)
        if flags & in_place == in_place:
            mapping = guest_memfd.mmap()
        else:
            mapping = shared_memory(plan.size, "anonymous")
        machine.own(mapping)
        slot_flags = plan.flags | lib.KVM_MEM_GUEST_MEMFD
        machine.set_user_memory_region2(
            number, plan.gpa, plan.size, mapping.address, slot_flags, guest_memfd
        )
        return Slot(number, plan.gpa, plan.size, slot_flags, "guest_memfd", mapping, guest_memfd)

    @cached_property
    def _supported_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_CPUID, asked once for all vCPUs."""
        return self._kvm.get_supported_cpuid()

    def _add_vcpu(self, machine: Machine, index: int) -> None:
        vcpu = machine.create_vcpu(index)
        machine.own(vcpu)
        machine.vcpus.append(vcpu)
        if self._vm_type in (VmType.DEFAULT, VmType.SW_PROTECTED):
            vcpu.set_cpuid2(self._supported_cpuid)
        if self._vm_type is VmType.TDX and self._initialized:
            TdxVcpu(vcpu).set_cpuid_of_td()

    def _load_payloads(self, machine: Machine) -> None:
        if self._vm_type not in (VmType.DEFAULT, VmType.SW_PROTECTED):
            raise HarnessError(
                f"payload() loads into memory the host can write; a {self._vm_type.label} VM's has "
                "to be populated by its launch commands"
            )
        if any(plan.mode is not Mode.REAL for plan in self._payloads):
            machine.page_table = self._add_page_tables(machine)
        for plan in self._payloads:
            machine._enter(plan)

    def _add_page_tables(self, machine: Machine) -> int:
        top = max([slot.gpa + slot.size for slot in machine.slots], default=0)
        gib = max(4, -(-top // _GIB))
        size = page_tables_size(gib)
        base = PAGE_TABLE_GPA
        if any(slot.gpa < base + size and base < slot.gpa + slot.size for slot in machine.slots):
            base = -(-top // PAGE_SIZE) * PAGE_SIZE
        mapping = shared_memory(size, "anonymous")
        machine.own(mapping)
        mapping.write(0, page_tables(base, gib))
        number = len(machine.slots)
        machine.set_user_memory_region(number, base, size, mapping.address)
        machine.slots.append(Slot(number, base, size, 0, "anonymous", mapping))
        return base
