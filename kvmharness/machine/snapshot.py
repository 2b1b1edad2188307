# SPDX-License-Identifier: MIT
"""Everything that a machine's vCPUs and VM hold, taken out of one machine and put into another.

A snapshot is plain data: it can be pickled, and restored in another process. What KVM can't be
asked for stays with whoever set it: routes, eventfds, filters, capabilities that were enabled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm.caps import Cap
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.cpuid import Cpuid
from kvmharness.kvm.debug import DebugRegs
from kvmharness.kvm.events import VcpuEvents
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.fpu import Xcrs, Xsave
from kvmharness.kvm.irqchip import Irqchip, IrqchipState, PitState2
from kvmharness.kvm.lapic import Lapic
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.nested import NestedState
from kvmharness.kvm.registers import Regs, Sregs2
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.slot import Slot

#: One KVM_GET_MSRS takes at most so many (MAX_IO_MSRS).
_MSRS_A_CALL = 256

#: Memory is read by so many bytes at a time.
_MEMORY_A_READ = 1 << 20


@dataclass
class VcpuState:
    """What one vCPU holds."""

    id: int
    cpuid: Cpuid
    regs: Regs
    sregs: Sregs2
    xsave: Xsave
    xcrs: Xcrs | None
    debugregs: DebugRegs
    events: VcpuEvents
    mp_state: int
    msrs: dict[int, int]
    lapic: Lapic | None = None
    nested: NestedState | None = None
    tsc_khz: int = 0


@dataclass
class VmState:
    """What a VM holds beside its memory: the clock, and its in-kernel controllers."""

    clock: ClockData
    irqchips: list[IrqchipState] = field(default_factory=list)
    pit: PitState2 | None = None


@dataclass
class SlotContents:
    """The contents of one memslot, as the host sees them: pages that are zero are left out."""

    number: int
    gpa: int
    size: int
    pages: dict[int, bytes]  # by offset, in bytes


@dataclass
class Snapshot:
    """A whole machine: its VM, its vCPUs by id, its memory."""

    vm: VmState
    vcpus: list[VcpuState]
    memory: list[SlotContents]


def take(vm: Vm, vcpus: Sequence[Vcpu], slots: Sequence[Slot]) -> Snapshot:
    """Take what a VM, its vCPUs and the memory of its slots hold."""
    require_readable(vm)
    with Kvm.open() as kvm:
        msrs = kvm.get_msr_index_list()
    states = [save_vcpu(vm, vcpu, msrs) for vcpu in vcpus]
    return Snapshot(save_vm(vm), states, [save_slot(slot) for slot in slots])


def put_back(snapshot: Snapshot, vm: Vm, vcpus: Sequence[Vcpu], slots: Sequence[Slot]) -> None:
    """Give a VM, its vCPUs and the memory of its slots what others held."""
    require_readable(vm)
    require_same_shape(snapshot, slots, vcpus)
    for vcpu in vcpus:
        finish_exit(vcpu)
    for slot, saved in zip(slots, snapshot.memory, strict=True):
        restore_slot(slot, saved)
    restore_vm(vm, snapshot.vm)
    for vcpu, state in zip(vcpus, snapshot.vcpus, strict=True):
        restore_vcpu(vcpu, state)


def finish_exit(vcpu: Vcpu) -> None:
    """Let a vCPU finish the instruction of its last exit, if it had one."""
    if vcpu.kvm_run.exit_reason != lib.KVM_EXIT_UNKNOWN:
        vcpu.settle()


# ------------------------------------------------------------------ a vCPU


def save_vcpu(vm: Vm, vcpu: Vcpu, msr_indices: list[int]) -> VcpuState:
    """Take the state of a vCPU that is not running, once it has finished its last exit.

    `msr_indices` is Kvm.get_msr_index_list(); those the vCPU hasn't got are left out.
    """
    finish_exit(vcpu)
    return VcpuState(
        id=vcpu.id,
        cpuid=vcpu.get_cpuid2(),
        # In KVM's order: getting the state of one may make an event of another.
        events=vcpu.get_vcpu_events(),
        mp_state=vcpu.get_mp_state(),
        regs=vcpu.get_regs(),
        sregs=vcpu.get_sregs2(),
        xsave=vcpu.get_xsave2(),
        xcrs=vcpu.try_.get_xcrs().value,
        debugregs=vcpu.get_debugregs(),
        msrs=read_all(vcpu, msr_indices),
        lapic=vcpu.try_.get_lapic().value,
        nested=vcpu.get_nested_state() if vm.check_extension(Cap.NESTED_STATE) else None,
        tsc_khz=vcpu.try_.get_tsc_khz().value or 0,
    )


def restore_vcpu(vcpu: Vcpu, state: VcpuState) -> None:
    """Give a vCPU what another one held. Raises KvmError for what KVM refuses."""
    # Order: CPUID decides what the others may hold; the APIC base (sregs) is there before the APIC,
    # EFER before MSRs that need it; events last, since setting the others may change them.
    vcpu.set_cpuid2(state.cpuid)
    if state.tsc_khz and vcpu.get_tsc_khz() != state.tsc_khz:
        vcpu.set_tsc_khz(state.tsc_khz)
    vcpu.set_mp_state(state.mp_state)
    vcpu.set_regs(state.regs)
    vcpu.set_sregs2(state.sregs)
    if state.xcrs is not None:
        vcpu.set_xcrs(state.xcrs)
    vcpu.set_xsave(state.xsave)
    vcpu.set_debugregs(state.debugregs)
    if state.lapic is not None:
        vcpu.set_lapic(state.lapic)
    write_all(vcpu, state.msrs)
    if state.nested is not None:
        vcpu.set_nested_state(state.nested)
    vcpu.set_vcpu_events(state.events)


def read_all(vcpu: Vcpu, indices: list[int]) -> dict[int, int]:
    """KVM_GET_MSRS of all `indices`; the kernel stops at one it can't read, and is asked on."""
    found: dict[int, int] = {}
    left = list(indices)
    while left:
        result = vcpu.try_.get_msrs(left[:_MSRS_A_CALL])
        found |= result.unwrap()
        asked = min(len(left), _MSRS_A_CALL)
        del left[: result.ret + (result.ret < asked)]
    return found


def write_all(vcpu: Vcpu, msrs: dict[int, int]) -> None:
    """KVM_SET_MSRS of all `msrs`. HarnessError for one that is refused, unless it has the value."""
    left = list(msrs.items())
    while left:
        part = left[:_MSRS_A_CALL]
        done = vcpu.set_msrs(dict(part))
        if done < len(part):
            index, value = part[done]
            if vcpu.get_msrs([index]).get(index) != value:
                raise HarnessError(f"vCPU {vcpu.id} refuses {value:#x} for MSR {index:#x}")
            done += 1
        del left[:done]


# ------------------------------------------------------------------ a VM


def save_vm(vm: Vm) -> VmState:
    """Take the state of a VM's clock and in-kernel devices."""
    state = VmState(vm.get_clock())
    if vm.try_.get_irqchip(Irqchip.IOAPIC).ok:
        state.irqchips = [vm.get_irqchip(chip) for chip in Irqchip]
    state.pit = vm.try_.get_pit2().value
    return state


def restore_vm(vm: Vm, state: VmState) -> None:
    """Give a VM, made with the same devices, what another one held."""
    for chip in state.irqchips:
        vm.set_irqchip(chip)
    if state.pit is not None:
        vm.set_pit2(state.pit)
    clock = ClockData(clock=state.clock.clock)  # the flags are of KVM_GET_CLOCK alone
    vm.set_clock(clock)


def require_readable(vm: Vm) -> None:
    """Raise MissingCapability for a VM whose state is the guest's secret."""
    if vm.vm_type not in (VmType.DEFAULT, VmType.SW_PROTECTED):
        label = VmType(vm.vm_type).label
        raise MissingCapability("snapshot", f"what a {label} VM holds is its guest's secret")


# ------------------------------------------------------------------ memory


def save_slot(slot: Slot) -> SlotContents:
    """Take the contents of a slot."""
    zero = bytes(PAGE_SIZE)
    pages = {}
    for start in range(0, slot.size, _MEMORY_A_READ):
        part = slot.mapping.read(start, min(_MEMORY_A_READ, slot.size - start))
        for at in range(0, len(part), PAGE_SIZE):
            page = part[at : at + PAGE_SIZE]
            if page != zero:
                pages[start + at] = page
    return SlotContents(slot.number, slot.gpa, slot.size, pages)


def restore_slot(slot: Slot, saved: SlotContents) -> None:
    """Make the contents of a slot those of another of its size."""
    slot.mapping.fill(0, slot.size, 0)
    for offset, page in saved.pages.items():
        slot.mapping.write(offset, page)


def require_same_shape(snapshot: Snapshot, slots: Sequence[Slot], vcpus: Sequence[Vcpu]) -> None:
    """Raise HarnessError if a machine has not the slots and vCPUs that the snapshot has."""
    theirs = [(saved.number, saved.gpa, saved.size) for saved in snapshot.memory]
    ours = [(slot.number, slot.gpa, slot.size) for slot in slots]
    if theirs != ours:
        raise HarnessError(f"memslots differ (number, gpa, size): {theirs} saved, {ours} here")
    ids = [state.id for state in snapshot.vcpus], [vcpu.id for vcpu in vcpus]
    if ids[0] != ids[1]:
        raise HarnessError(f"vCPUs differ: {ids[0]} saved, {ids[1]} here")
