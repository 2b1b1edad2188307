# SPDX-License-Identifier: MIT
"""A guest taken out of one machine goes on in another: its registers, XMM, memory, controllers."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

import pytest

from kvmharness import HarnessError, Machine, VmBuilder
from kvmharness.kvm.debug import DebugRegs
from kvmharness.kvm.exits import HltExit, IoExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.irqchip import Irqchip
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import Mode
from kvmharness.machine.snapshot import Snapshot

CODE = 0x3_0000
COUNTER = 0x4_0000
PORT = 0x80
BRAND = 0x8000_0002  # the first 16 letters of the processor's name
SYSENTER_CS = 0x174
#: TSC, its adjustment and deadline, MPERF, APERF; Hyper-V's run time and reference time.
CLOCKS = {0x10, 0x3B, 0x6E0, 0xE7, 0xE8, 0x4000_0010, 0x4000_0020}
DIVIDE = 0x3E0  # the local APIC's divide configuration register
#: At CPL3: paddq %xmm1, %xmm0; movq %xmm0, %rax; addq %rbx, (%rdi); out %eax, $0x80; and again.
COUNTING = b"\x66\x0f\xd4\xc1\x66\x48\x0f\x7e\xc0\x48\x01\x1f\xe7\x80\xeb\xf0"


def empty(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    """A machine with page tables for long mode, about to run nothing of note."""
    return vm_builder().memory(0, 1 << 20, "anonymous").payload("hello")


def other_mode(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    """As empty(), about to run in real mode."""
    return empty(vm_builder).payload("hello16")


def counting(vm_builder: Callable[..., VmBuilder], step: int, factor: int) -> Machine:
    """A guest that counts by `step` in XMM0, and by `factor` in memory."""
    machine = empty(vm_builder).build()
    machine.write(CODE, COUNTING)
    vcpu = machine.vcpus[0]
    table = machine.page_table or 0
    enter(vcpu, Mode.LONG_CPL3, CODE, page_table=table, rdi=COUNTER, rbx=factor)
    area = vcpu.get_xsave()
    area.set_xmm(0, bytes(16))
    area.set_xmm(1, struct.pack("<QQ", step, 0))
    vcpu.set_xsave(area)
    return machine


def ticks(machine: Machine, times: int) -> list[int]:
    """What the guest counts to in XMM0, each time it says so."""
    seen = []
    for _ in range(times):
        exit_ = machine.vcpus[0].run(5)
        assert isinstance(exit_, IoExit)
        assert (exit_.port, exit_.size) == (PORT, 4)
        seen.append(int.from_bytes(exit_.data, "little"))
    return seen


def in_memory(machine: Machine) -> int:
    return int.from_bytes(machine.read(COUNTER, 8), "little")


@pytest.mark.scenario("run.snapshot.goes_on")
def test_a_guest_goes_on_counting_in_another_vm(vm_builder: Callable[..., VmBuilder]) -> None:
    with counting(vm_builder, 3, 100) as machine:
        assert ticks(machine, 4) == [3, 6, 9, 12]
        taken = machine.snapshot()
        assert ticks(machine, 1) == [15]  # the first goes on as well
    wire = pickle.dumps(taken)
    with other_mode(vm_builder).build() as other:
        snapshot = pickle.loads(wire)
        assert isinstance(snapshot, Snapshot)
        other.restore(snapshot)
        assert in_memory(other) == 400
        assert ticks(other, 3) == [15, 18, 21]
        assert in_memory(other) == 700
        other.restore(snapshot)  # back to where it was
        assert ticks(other, 1) == [15]


@pytest.mark.scenario("run.snapshot.same")
def test_what_is_restored_is_what_was_taken(vm_builder: Callable[..., VmBuilder]) -> None:
    with counting(vm_builder, 1, 1) as machine:
        vcpu = machine.vcpus[0]
        leaves = [
            leaf.replaced(eax=0x6B63_6F6D) if leaf.function == BRAND else leaf
            for leaf in vcpu.get_cpuid2()
        ]
        vcpu.set_cpuid2(leaves)
        vcpu.set_msrs({SYSENTER_CS: 0x18})
        vcpu.set_debugregs(DebugRegs(db=[1, 2, 3, 4], dr6=0xFFFF_0FF0, dr7=0x400))
        events = vcpu.get_vcpu_events()
        events.nmi.masked = 1
        vcpu.set_vcpu_events(events)
        ticks(machine, 2)
        taken = machine.snapshot()
        assert taken.vcpus[0].events.nmi.masked == 1
    with other_mode(vm_builder).build() as other:
        other.restore(taken)
        again = other.snapshot()
    first, second = taken.vcpus[0], again.vcpus[0]
    assert any(leaf.eax == 0x6B63_6F6D for leaf in second.cpuid)
    assert second.msrs[SYSENTER_CS] == 0x18
    assert list(second.debugregs.db) == [1, 2, 3, 4]
    for name in ("cpuid", "regs", "sregs", "xsave", "xcrs", "debugregs", "events", "mp_state"):
        assert getattr(second, name) == getattr(first, name), name
    changed = {i for i in first.msrs if second.msrs.get(i) != first.msrs[i]}
    assert changed <= CLOCKS
    assert again.memory == taken.memory


@pytest.mark.scenario("run.snapshot.irqchip")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
@pytest.mark.requires_cap("KVM_CAP_PIT2")
def test_controllers_and_the_clock_come_along(vm_builder: Callable[..., VmBuilder]) -> None:
    def devices(machine: Machine) -> None:
        machine.create_irqchip()
        machine.create_pit2()

    def built() -> Machine:
        builder = vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16")
        return builder.before_vcpus(devices).vcpus(2).build()

    with built() as machine:
        pic = machine.get_irqchip(Irqchip.PIC_SLAVE)
        pic.pic.irq_base = 0x70
        machine.set_irqchip(pic)
        ioapic = machine.get_irqchip(Irqchip.IOAPIC)
        ioapic.ioapic.redirtbl[4].bits = 0x1_0031
        machine.set_irqchip(ioapic)
        lapic = machine.vcpus[0].get_lapic()
        lapic.write(DIVIDE, 0xB)
        machine.vcpus[0].set_lapic(lapic)
        machine.vcpus[1].set_mp_state(lib.KVM_MP_STATE_HALTED)
        timer = machine.get_pit2()
        timer.channels[2].count = 1193
        machine.set_pit2(timer)
        taken = machine.snapshot()
    with built() as other:
        other.restore(taken)
        assert other.get_irqchip(Irqchip.PIC_SLAVE) == pic
        assert other.get_irqchip(Irqchip.IOAPIC).ioapic.redirtbl[4].bits == 0x1_0031
        assert other.vcpus[0].get_lapic().read(DIVIDE) == 0xB
        assert other.vcpus[1].get_mp_state() == lib.KVM_MP_STATE_HALTED
        assert other.get_pit2().channels[2].count == 1193
        assert other.get_clock().clock >= taken.vm.clock.clock
        assert other.run().console == "hello from real mode\n"


@pytest.mark.scenario("run.snapshot.two_vcpus")
def test_each_vcpu_gets_its_own(vm_builder: Callable[..., VmBuilder]) -> None:
    def built() -> Machine:
        return vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16").vcpus(2).build()

    with built() as machine:
        for index, vcpu in enumerate(machine.vcpus):
            regs = vcpu.get_regs()
            regs.r8 = 1000 + index
            vcpu.set_regs(regs)
        taken = machine.snapshot()
    with built() as other:
        other.restore(taken)
        assert [vcpu.get_regs().r8 for vcpu in other.vcpus] == [1000, 1001]
        assert [run.console for run in other.run_all()] == ["hello from real mode\n"] * 2


@pytest.mark.scenario("run.snapshot.settled")
def test_an_access_that_was_not_answered_is_settled_first(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    """in $0x80, %al; hlt: the answer of the exit belongs to the machine it happened in."""
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16").build() as machine:
        machine.write(0x2000, b"\xe4\x80\xf4")
        vcpu = machine.vcpus[0]
        regs = vcpu.get_regs()
        regs.rip = 0x2000
        vcpu.set_regs(regs)
        exit_ = vcpu.run(5)
        assert isinstance(exit_, IoExit)
        vcpu.complete_io(exit_, b"\x55")
        taken = machine.snapshot()
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16").build() as other:
        other.restore(taken)
        assert isinstance(other.vcpus[0].run(5), HltExit)
        assert other.vcpus[0].get_regs().rax & 0xFF == 0x55


@pytest.mark.scenario("run.snapshot.other_shape")
def test_a_machine_of_another_shape_is_refused(vm_builder: Callable[..., VmBuilder]) -> None:
    with empty(vm_builder).build() as machine:
        taken = machine.snapshot()
    smaller = vm_builder().memory(0, 1 << 19, "anonymous").payload("hello")
    more = empty(vm_builder).vcpus(2)
    for builder, reason in ((smaller, "memslots differ"), (more, "vCPUs differ")):
        with builder.build() as other, pytest.raises(HarnessError, match=reason):
            other.restore(taken)
