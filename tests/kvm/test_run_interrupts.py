# SPDX-License-Identifier: MIT
"""Interrupts and eventfds, seen by a guest: a real-mode guest needs no more than a vector table."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from kvmharness import Machine, RunTimeout, VmBuilder
from kvmharness.kvm.exits import HltExit, IoExit, IrqWindowExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.irqchip import Irqchip, MsiRoute, PinRoute, default_routes
from kvmharness.machine import payload
from kvmharness.machine.payload import ExitCase

HELLO = "hello from real mode\n"
GSI = 5
#: At reset the PICs' vectors begin at 0, and local interrupt 0 passes them on (a quirk of KVM's
#: that is on by default, KVM_X86_QUIRK_LINT0_REENABLED), so line 5 is vector 5.
PIC_VECTOR = GSI
MSI_ADDRESS = 0xFEE0_0000
MSI_VECTOR = 0x30
MMIO_GPA = 0xD000_0000

BeforeVcpus = Callable[[Machine], object]


@pytest.fixture
def waiting(vm_builder: Callable[..., VmBuilder]) -> Callable[..., Machine]:
    """A function giving a guest that has said hello and waits, and says it again when interrupted.

    The vector table's entry for `vector` is the payload's own start.
    """

    def build(vector: int, before_vcpus: BeforeVcpus | None = None) -> Machine:
        builder = vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16")
        if before_vcpus is not None:
            builder.before_vcpus(before_vcpus)
        machine = builder.build()
        try:
            machine.write(4 * vector, struct.pack("<HH", payload.load("hello16").entry, 0))
            regs = machine.vcpus[0].get_regs()
            regs.rflags = 0x202  # interrupts on
            regs.rsp = 0x800
            machine.vcpus[0].set_regs(regs)
            assert machine.run().console == HELLO
        except BaseException:
            machine.close()
            raise
        return machine

    return build


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def signal(eventfd: int) -> None:
    os.write(eventfd, (1).to_bytes(8, "little"))


def count(eventfd: int) -> int:
    """Take what was signalled."""
    try:
        return int.from_bytes(os.read(eventfd, 8), "little")
    except BlockingIOError:
        return 0


def nothing_comes(machine: Machine) -> None:
    with pytest.raises(RunTimeout):
        machine.run(0.05)


# ------------------------------------------------------------------ without an irqchip


@pytest.mark.scenario("run.irq.queued")
def test_an_interrupt_queued_by_the_vmm(waiting: Callable[..., Machine]) -> None:
    with waiting(0x21) as machine:
        assert isinstance(machine.vcpus[0].run(5), HltExit)
        machine.vcpus[0].interrupt(0x21)
        assert machine.run().console == HELLO


@pytest.mark.scenario("run.irq.no_chip")
def test_without_a_chip_there_is_nothing_to_raise(
    waiting: Callable[..., Machine], eventfd: int
) -> None:
    with waiting(PIC_VECTOR) as machine:
        assert machine.try_.irq_line(GSI, 1).errno_name == "ENXIO"
        assert machine.try_.irqfd(eventfd, GSI).errno_name == "EINVAL"
        assert machine.try_.signal_msi(MSI_ADDRESS, MSI_VECTOR).errno_name == "EINVAL"


# ------------------------------------------------------------------ in-kernel irqchip

IRQCHIP = pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
IRQFD = pytest.mark.requires_cap("KVM_CAP_IRQFD")


def with_chip(machine: Machine) -> None:
    machine.create_irqchip()


@IRQCHIP
@pytest.mark.scenario("run.irq.line")
def test_a_line_interrupts_a_halted_guest(waiting: Callable[..., Machine]) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        nothing_comes(machine)
        machine.irq_line(GSI, 1)
        assert machine.run().console == HELLO


@IRQCHIP
@IRQFD
@pytest.mark.scenario("run.irq.irqfd")
def test_an_eventfd_interrupts_a_halted_guest(
    waiting: Callable[..., Machine], eventfd: int
) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        machine.irqfd(eventfd, GSI)
        nothing_comes(machine)
        signal(eventfd)
        assert machine.run().console == HELLO
        assert count(eventfd) == 0  # KVM took it


@IRQCHIP
@IRQFD
@pytest.mark.scenario("run.irq.irqfd_running")
def test_an_eventfd_wakes_a_thread_inside_kvm_run(
    waiting: Callable[..., Machine], eventfd: int
) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        machine.irqfd(eventfd, GSI)
        thread = machine.start(timeout=20)
        signal(eventfd)
        assert thread.join().console == HELLO


@IRQCHIP
@IRQFD
@pytest.mark.scenario("run.irq.irqfd_removed")
def test_a_removed_eventfd_does_nothing(waiting: Callable[..., Machine], eventfd: int) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        machine.irqfd(eventfd, GSI)
        assert machine.try_.irqfd(eventfd, GSI).errno_name == "EBUSY"
        machine.irqfd(eventfd, GSI, lib.KVM_IRQFD_FLAG_DEASSIGN)
        signal(eventfd)
        nothing_comes(machine)
        assert count(eventfd) == 1


@IRQCHIP
@IRQFD
@pytest.mark.scenario("run.irq.irqfd_refused")
def test_other_fds_are_no_eventfds(waiting: Callable[..., Machine]) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        assert machine.try_.irqfd(-1, GSI).errno_name == "EBADF"
        assert machine.try_.irqfd(machine, GSI).errno_name == "EINVAL"
        assert machine.try_.irqfd(0, GSI, 1 << 30).errno_name == "EINVAL"


@IRQCHIP
@pytest.mark.scenario("run.irq.chip_order")
def test_a_chip_comes_before_vcpus_and_once(waiting: Callable[..., Machine]) -> None:
    with waiting(PIC_VECTOR) as machine:
        assert machine.try_.create_irqchip().errno_name == "EINVAL"
    with waiting(PIC_VECTOR, with_chip) as machine:
        assert machine.try_.create_irqchip().errno_name == "EEXIST"


@IRQCHIP
@pytest.mark.scenario("run.irq.pic_state")
def test_a_pics_vectors_begin_where_its_state_says(waiting: Callable[..., Machine]) -> None:
    with waiting(0x28 + GSI, with_chip) as machine:
        state = machine.get_irqchip(Irqchip.PIC_MASTER)
        assert state.pic.irq_base == 0
        state.pic.irq_base = 0x28
        machine.set_irqchip(state)
        assert machine.get_irqchip(Irqchip.PIC_MASTER) == state
        machine.irq_line(GSI, 1)
        assert machine.run().console == HELLO
        assert machine.try_.get_irqchip(3).errno_name == "EINVAL"


@IRQCHIP
@pytest.mark.requires_cap("KVM_CAP_IRQFD_RESAMPLE")
@pytest.mark.scenario("run.irq.irqfd_resample")
def test_the_end_of_an_interrupt_lowers_the_line_and_tells(
    waiting: Callable[..., Machine], eventfd: int
) -> None:
    """The PIC ends it by itself (auto_eoi), when the vCPU takes it."""
    resample = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        with waiting(PIC_VECTOR, with_chip) as machine:
            state = machine.get_irqchip(Irqchip.PIC_MASTER)
            state.pic.auto_eoi = 1
            state.pic.elcr = 1 << GSI  # level-triggered
            machine.set_irqchip(state)
            machine.irqfd(eventfd, GSI, resample=resample)
            signal(eventfd)
            assert count(resample) == 0
            assert machine.run().console == HELLO
            assert count(resample) == 1
            nothing_comes(machine)  # the line is down
    finally:
        os.close(resample)


@IRQCHIP
@pytest.mark.scenario("run.irq.line_status")
def test_a_line_says_whether_it_was_delivered(waiting: Callable[..., Machine]) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        assert machine.irq_line_status(GSI, 1) > 0
        machine.irq_line(GSI, 0)
        assert machine.irq_line_status(GSI, 1) == 0  # a second edge: together with the first
        assert machine.run().console == HELLO


@IRQCHIP
@pytest.mark.requires_cap("KVM_CAP_IRQ_ROUTING")
@pytest.mark.scenario("run.irq.routes")
def test_a_line_goes_where_its_route_leads(waiting: Callable[..., Machine]) -> None:
    with waiting(PIC_VECTOR, with_chip) as machine:
        machine.set_gsi_routing(
            [route for route in default_routes() if route.gsi != GSI]
            + [PinRoute(30, Irqchip.PIC_MASTER, GSI)]
        )
        machine.irq_line(GSI, 1)  # leads nowhere now
        nothing_comes(machine)
        machine.irq_line(30, 1)
        assert machine.run().console == HELLO
        beyond = [PinRoute(0, Irqchip.IOAPIC, lib.KVM_IOAPIC_NUM_PINS)]
        assert machine.try_.set_gsi_routing(beyond).errno_name == "EINVAL"
        assert machine.try_.set_gsi_routing([], flags=1).errno_name == "EINVAL"


@IRQCHIP
@pytest.mark.requires_cap("KVM_CAP_PIT2")
@pytest.mark.scenario("run.irq.pit")
def test_the_timer_interrupts_as_its_state_says(waiting: Callable[..., Machine]) -> None:
    def with_pit(machine: Machine) -> None:
        assert machine.try_.create_pit2().errno_name == "ENOENT"
        machine.create_irqchip()
        machine.create_pit2()
        assert machine.try_.create_pit2().errno_name == "EEXIST"

    with waiting(0x20, with_pit) as machine:
        pic = machine.get_irqchip(Irqchip.PIC_MASTER)
        pic.pic.irq_base = 0x20
        machine.set_irqchip(pic)
        nothing_comes(machine)
        timer = machine.get_pit2()
        timer.channels[0].mode = 2
        timer.channels[0].count = 1193  # of 1.193182 MHz: 1 ms
        machine.set_pit2(timer)
        assert machine.get_pit2().channels[0].count == 1193
        machine.reinject_control(False)
        assert machine.run().console == HELLO


@pytest.mark.scenario("run.irq.nmi")
def test_an_nmi_comes_through_vector_two(waiting: Callable[..., Machine]) -> None:
    with waiting(2) as machine:
        vcpu = machine.vcpus[0]
        assert isinstance(vcpu.run(5), HltExit)
        vcpu.nmi()
        assert vcpu.get_vcpu_events().nmi.pending == 1
        assert machine.run().console == HELLO
        assert vcpu.get_vcpu_events().nmi.masked == 1  # no IRET yet


@pytest.mark.scenario("run.irq.nmi_events")
def test_an_nmi_set_as_an_event_comes_too(waiting: Callable[..., Machine]) -> None:
    with waiting(2) as machine:
        vcpu = machine.vcpus[0]
        events = vcpu.get_vcpu_events()
        events.nmi.pending = 1
        events.flags |= lib.KVM_VCPUEVENT_VALID_NMI_PENDING
        vcpu.set_vcpu_events(events)
        assert machine.run().console == HELLO
        events.flags = 1 << 31
        assert vcpu.try_.set_vcpu_events(events).errno_name == "EINVAL"


@pytest.mark.scenario("run.irq.window")
def test_the_vmm_is_told_when_interrupts_are_taken(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16").build() as machine:
        machine.write(0x2000, b"\xfb\x90\x90\xf4")  # sti; nop; nop; hlt
        vcpu = machine.vcpus[0]
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = 0x2000, 2
        vcpu.set_regs(regs)
        vcpu.request_interrupt_window()
        exit_ = vcpu.run(5)
        if isinstance(exit_, HltExit):
            pytest.skip("this host's KVM opens no interrupt window before HLT")
        assert isinstance(exit_, IrqWindowExit)
        assert vcpu.kvm_run.if_flag == 1
        assert vcpu.kvm_run.ready_for_interrupt_injection == 1
        vcpu.request_interrupt_window(False)
        assert isinstance(vcpu.run(5), HltExit)


# ------------------------------------------------------------------ MSIs and the split irqchip


def enable_local_apic(machine: Machine) -> None:
    """Set the software-enable bit of the spurious vector register, as a guest would."""
    lapic = machine.vcpus[0].get_lapic()
    lapic.write(0xF0, lapic.read(0xF0) | 0x100)
    machine.vcpus[0].set_lapic(lapic)


def with_split_chip(machine: Machine) -> None:
    machine.enable_split_irqchip(24)


CHIPS = [
    pytest.param(with_chip, id="in-kernel", marks=IRQCHIP),
    pytest.param(
        with_split_chip, id="split", marks=pytest.mark.requires_cap("KVM_CAP_SPLIT_IRQCHIP")
    ),
]


@pytest.mark.scenario("run.irq.msi")
@pytest.mark.requires_cap("KVM_CAP_SIGNAL_MSI")
@pytest.mark.parametrize("chip", CHIPS)
def test_a_message_interrupts_a_halted_guest(
    waiting: Callable[..., Machine], chip: BeforeVcpus
) -> None:
    with waiting(MSI_VECTOR, chip) as machine:
        enable_local_apic(machine)
        nothing_comes(machine)
        assert machine.signal_msi(MSI_ADDRESS, MSI_VECTOR) == 1
        assert machine.run().console == HELLO


@pytest.mark.scenario("run.irq.msi_irqfd")
@IRQFD
@pytest.mark.parametrize("chip", CHIPS)
def test_an_eventfd_routed_to_a_message(
    waiting: Callable[..., Machine], chip: BeforeVcpus, eventfd: int
) -> None:
    """The only route a split irqchip has: the VMM's own IOAPIC and devices send messages."""
    with waiting(MSI_VECTOR, chip) as machine:
        enable_local_apic(machine)
        machine.set_gsi_routing([MsiRoute(GSI, MSI_ADDRESS, MSI_VECTOR)])
        machine.irqfd(eventfd, GSI)
        nothing_comes(machine)
        signal(eventfd)
        assert machine.run().console == HELLO


@pytest.mark.scenario("run.irq.split_order")
@pytest.mark.requires_cap("KVM_CAP_SPLIT_IRQCHIP")
def test_a_split_chip_comes_before_vcpus_and_instead_of_the_other(
    waiting: Callable[..., Machine],
) -> None:
    with waiting(PIC_VECTOR) as machine:
        assert machine.try_.enable_split_irqchip().errno_name == "EEXIST"
    with waiting(PIC_VECTOR, with_split_chip) as machine:
        assert machine.try_.create_irqchip().errno_name == "EEXIST"


# ------------------------------------------------------------------ ioeventfd

PIO = lib.KVM_IOEVENTFD_FLAG_PIO
DATAMATCH = lib.KVM_IOEVENTFD_FLAG_DATAMATCH
DEASSIGN = lib.KVM_IOEVENTFD_FLAG_DEASSIGN
IOEVENTFD = pytest.mark.requires_cap("KVM_CAP_IOEVENTFD")
CONSOLE = payload.PORT_CONSOLE


@pytest.fixture
def talking(vm_builder: Callable[..., VmBuilder]) -> Iterator[Machine]:
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello").build() as machine:
        yield machine


@IOEVENTFD
@pytest.mark.scenario("run.ioeventfd.port")
def test_port_writes_go_to_the_eventfd_and_make_no_exit(talking: Machine, eventfd: int) -> None:
    text = payload.load("hello").console or ""
    talking.ioeventfd(eventfd, CONSOLE, 1, PIO)
    run = talking.run()
    assert (run.console, run.exits) == ("", 1)
    assert count(eventfd) == len(text)
    talking.ioeventfd(eventfd, CONSOLE, 1, PIO | DEASSIGN)
    talking.enter("hello")
    assert talking.run().console == text
    assert count(eventfd) == 0


@IOEVENTFD
@pytest.mark.scenario("run.ioeventfd.datamatch")
def test_only_the_value_asked_for_goes_to_the_eventfd(talking: Machine, eventfd: int) -> None:
    text = payload.load("hello").console or ""
    talking.ioeventfd(eventfd, CONSOLE, 1, PIO | DATAMATCH, ord("l"))
    assert talking.run().console == text.replace("l", "")
    assert count(eventfd) == text.count("l")


@IOEVENTFD
@pytest.mark.scenario("run.ioeventfd.mmio")
@pytest.mark.parametrize("mode", ["long-cpl0", "long-cpl3"])
def test_mmio_writes_go_to_the_eventfd(talking: Machine, eventfd: int, mode: str) -> None:
    talking.ioeventfd(eventfd, MMIO_GPA, 8)
    talking.enter("exits", mode, case=ExitCase.MMIO_WRITE, a0=MMIO_GPA, a1=1)
    assert talking.run().status == 0
    assert count(eventfd) == 1


@IOEVENTFD
@pytest.mark.scenario("run.ioeventfd.refused")
def test_what_is_refused(talking: Machine, eventfd: int) -> None:
    vm = talking.try_
    talking.ioeventfd(eventfd, MMIO_GPA, 8)
    assert vm.ioeventfd(eventfd, MMIO_GPA, 8).errno_name == "EEXIST"
    assert vm.ioeventfd(eventfd, MMIO_GPA, 8, DEASSIGN).errno_name == "ok"
    assert vm.ioeventfd(eventfd, MMIO_GPA, 8, DEASSIGN).errno_name == "ENOENT"
    assert vm.ioeventfd(eventfd, MMIO_GPA, 3).errno_name == "EINVAL"
    assert vm.ioeventfd(eventfd, 2**64 - 4, 8).errno_name == "EINVAL"
    assert vm.ioeventfd(eventfd, MMIO_GPA, 8, 1 << 20).errno_name == "EINVAL"
    assert vm.ioeventfd(-1, MMIO_GPA, 8).errno_name == "EBADF"
    assert vm.ioeventfd(talking, MMIO_GPA, 8).errno_name == "EINVAL"


# ------------------------------------------------------------------ start-up of other processors

#: INIT, then SIPI with vector 8, to all but oneself, by the local APIC's command register.
START_OTHERS = bytes.fromhex(
    "c7 87 00 03 00 00 00 45 0c 00"  # mov dword [rdi + 0x300], 0xc4500
    "c7 87 00 03 00 00 08 46 0c 00"  # mov dword [rdi + 0x300], 0xc4608
    "b0 01 e6 10"  # mov al, 1; out 0x10, al
    "f4"  # hlt
)
STARTED = bytes.fromhex("b0 02 e6 10 f4")  # mov al, 2; out 0x10, al; hlt


def test_a_processor_waits_for_its_start_up(vm_builder: Callable[..., VmBuilder]) -> None:
    """Its thread is there first, waits in KVM_RUN, and runs from the SIPI's page on."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").irqchip().vcpus(2)
    with builder.code(START_OTHERS, "long", vcpu=0, rdi=0xFEE0_0000).build() as machine:
        machine.write(0x8000, STARTED)
        other = machine.start(vcpu=1, timeout=10)
        time.sleep(0.05)
        assert other.running
        first = machine.run().exit
        assert isinstance(first, IoExit)
        assert first.data == b"\1"
        started = other.join().exit
        assert isinstance(started, IoExit)
        assert started.data == b"\2"
        assert machine.vcpus[1].get_mp_state() == lib.KVM_MP_STATE_RUNNABLE


def test_a_processor_that_nobody_starts_says_so(vm_builder: Callable[..., VmBuilder]) -> None:
    with vm_builder().memory(0, 1 << 20, "anonymous").irqchip().vcpus(1).build() as machine:
        machine.vcpus[0].set_mp_state(lib.KVM_MP_STATE_UNINITIALIZED)
        with pytest.raises(RunTimeout, match="it waits for INIT and SIPI"):
            machine.vcpus[0].run(0.3)
