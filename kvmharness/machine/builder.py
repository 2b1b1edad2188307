# SPDX-License-Identifier: MIT
"""VmBuilder: from a description of memory, vCPUs and payload to a Machine that runs.

Every step is a method of its own, and what it made is an attribute of the Machine: a test that
wants a step done otherwise leaves it out and does it with the Machine's ioctls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, Self

from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm.cpuid import Cpuid
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import (
    PAGE_SIZE,
)
from kvmharness.kvm.system import Kvm, made_or_missing
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.tdx import TdxVcpu, start_td
from kvmharness.machine.cpu_mode import descriptor_tables, page_tables, page_tables_size
from kvmharness.machine.cpuid import GuestCpu
from kvmharness.machine.entry import CODE_GPA, EntryPlan
from kvmharness.machine.machine import Machine
from kvmharness.machine.payload import Mode, Payload
from kvmharness.machine.slot import Backing, Slot, require_guest_memfd, shared_memory
from kvmharness.record import Record

#: Where the builder's own slot (page tables, GDTs) goes: below the 4 GiB line's devices, above any
#: slot a small test uses.
PAGE_TABLE_GPA = 0xE000_0000

#: The VM types whose first command is KVM_SEV_INIT2.
SEV_TYPES = (VmType.SEV, VmType.SEV_ES, VmType.SNP)

#: The VM types whose vCPUs the host sets up: the others' come from a launch.
_ENTERED_HERE = (VmType.DEFAULT, VmType.SW_PROTECTED)

#: Three pages that KVM may use, where the field's other VMMs have them: below the BIOS.
_TSS_GPA = 0xFFFB_D000

_GIB = 1 << 30


class _MemoryPlan(Record, frozen=True):
    gpa: int
    size: int
    backing: Backing
    flags: int
    guest_memfd_flags: int | None


def _add_irqchip(machine: Machine) -> None:
    machine.set_tss_addr(_TSS_GPA)
    machine.create_irqchip()
    machine.create_pit2(lib.KVM_PIT_SPEAKER_DUMMY)


def _add_local_apics(machine: Machine) -> None:
    machine.enable_split_irqchip()


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
        self._entries: list[EntryPlan] = []
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
        return self._enter(EntryPlan.of_payload(name, mode, vcpu, load_gpa, arguments))

    def code(
        self,
        image: bytes,
        mode: Mode | str = Mode.LONG_CPL0,
        *,
        vcpu: int | None = None,
        gpa: int = CODE_GPA,
        entry: int | None = None,
        **registers: int,
    ) -> Self:
        """Load own code at `gpa` (bytes) and begin it at `entry` (its start) with `registers`.

        `mode` is ``real``, ``protected`` (32-bit, flat, no paging), ``long`` (64-bit, CPL0) or
        ``long-cpl3``. In the last two all memory is mapped to itself; in all but real mode a GDT
        has the segments of Linux's boot protocols. Registers are those of struct kvm_regs
        (``rdi=...``), 0 if not given, but for rsp, which is `gpa`: the stack grows down from there.
        Interrupts are off, and there is no IDT: a fault is KVM_EXIT_SHUTDOWN.

        `vcpu` is the one that runs it, by default all; at least that many are made.
        """
        return self._enter(EntryPlan.of_code(image, mode, vcpu, gpa, entry, registers))

    def _enter(self, plan: EntryPlan) -> Self:
        self._entries.append(plan)
        self._vcpus = max(self._vcpus, (plan.vcpu or 0) + 1)
        return self

    def irqchip(self, kind: Literal["full", "split"] = "full") -> Self:
        """Have KVM's own interrupt controllers: all, with the PIT, or local APICs alone (split).

        KVM_SET_TSS_ADDR, which Intel hosts without unrestricted guests need, and KVM_CREATE_IRQCHIP
        and KVM_CREATE_PIT2; or KVM_CAP_SPLIT_IRQCHIP. vCPUs that no payload() or code() enters wait
        for INIT and SIPI then, but the first, and a halted vCPU for its interrupt: in KVM_RUN.
        """
        return self.before_vcpus(_add_irqchip if kind == "full" else _add_local_apics)

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
        for wanted in self._entries:
            if wanted.vcpu is not None and wanted.vcpu >= self._vcpus:
                raise HarnessError(
                    f"{wanted.name} is for vCPU {wanted.vcpu}, of {self._vcpus} from 0"
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
            if self._entries:
                self._load(machine)
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
    def _supported_cpuid(self) -> Cpuid:
        """KVM_GET_SUPPORTED_CPUID, asked once for all vCPUs."""
        return self._kvm.get_supported_cpuid()

    def _add_vcpu(self, machine: Machine, index: int) -> None:
        vcpu = machine.create_vcpu(index)
        machine.own(vcpu)
        machine.vcpus.append(vcpu)
        if self._vm_type in _ENTERED_HERE or (self._vm_type in SEV_TYPES and self._initialized):
            cpu = GuestCpu(
                self._vm_type,
                index,
                self._vcpus,
                local_apic=vcpu.try_.get_lapic().ok,
                tsc_deadline=bool(machine.check_extension(lib.KVM_CAP_TSC_DEADLINE_TIMER)),
            )
            vcpu.set_cpuid2(cpu.cpuid(self._supported_cpuid))
        if self._vm_type is VmType.TDX and self._initialized:
            TdxVcpu(vcpu).set_cpuid_of_td()

    def _load(self, machine: Machine) -> None:
        if self._vm_type not in _ENTERED_HERE:
            raise HarnessError(
                f"payload() and code() load into memory the host can write; a "
                f"{self._vm_type.label} VM's has to be populated by its launch commands"
            )
        if any(plan.mode is not Mode.REAL for plan in self._entries):
            self._add_tables(machine)
        for plan in self._entries:
            machine._enter(plan)

    def _add_tables(self, machine: Machine) -> None:
        top = max([slot.gpa + slot.size for slot in machine.slots], default=0)
        # Above the slots, if that is where these go, they are mapped too.
        above = min(top + page_tables_size(512) + PAGE_SIZE, 512 * _GIB)
        gib = max(4, -(-max(top, above) // _GIB))
        paging = page_tables_size(gib)
        size = paging + PAGE_SIZE
        base = PAGE_TABLE_GPA
        if any(slot.gpa < base + size and base < slot.gpa + slot.size for slot in machine.slots):
            base = -(-top // PAGE_SIZE) * PAGE_SIZE
        mapping = shared_memory(size, "anonymous")
        machine.own(mapping)
        mapping.write(0, page_tables(base, gib))
        mapping.write(paging, descriptor_tables())
        number = len(machine.slots)
        machine.set_user_memory_region(number, base, size, mapping.address)
        machine.slots.append(Slot(number, base, size, 0, "anonymous", mapping))
        machine.page_table = base
        machine.gdt = base + paging
