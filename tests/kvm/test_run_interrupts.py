# SPDX-License-Identifier: MIT
"""Interrupts and eventfds, seen by a guest: a real-mode guest needs no more than a vector table."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import pytest

from kvmharness import Machine, RunTimeout, VmBuilder
from kvmharness.kvm import ioctl
from kvmharness.kvm.exits import HltExit
from kvmharness.kvm.ffi import ffi, lib
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


# ------------------------------------------------------------------ MSIs and the split irqchip


def enable_local_apic(machine: Machine) -> None:
    """Set the software-enable bit of the spurious vector register, as a guest would."""
    state = ffi.new("struct kvm_lapic_state *")
    vcpu = machine.vcpus[0].fileno()
    ioctl.call(vcpu, "KVM_GET_LAPIC", state).unwrap()
    state.regs[0xF1] = bytes([ord(state.regs[0xF1]) | 1])
    ioctl.call(vcpu, "KVM_SET_LAPIC", state).unwrap()


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
        routing = ffi.new("struct kvm_irq_routing *", {"entries": 1})
        routing.nr = 1
        routing.entries[0].gsi = GSI
        routing.entries[0].type = lib.KVM_IRQ_ROUTING_MSI
        routing.entries[0].u.msi.address_lo = MSI_ADDRESS
        routing.entries[0].u.msi.data = MSI_VECTOR
        ioctl.call(machine.fileno(), "KVM_SET_GSI_ROUTING", routing).unwrap()
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
