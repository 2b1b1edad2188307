# SPDX-License-Identifier: MIT
"""What a guest wrote, told later: coalesced MMIO and PIO, the dirty log cleared, the dirty ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvmharness import HarnessError, Machine, Vm, VmBuilder
from kvmharness.kvm.coalesced import RING_ENTRIES, CoalescedWrite
from kvmharness.kvm.dirty import DirtyPage
from kvmharness.kvm.exits import DirtyRingFullExit, HltExit, IoExit, MmioExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine import payload

LOG_DIRTY = lib.KVM_MEM_LOG_DIRTY_PAGES
MEMORY = 0x8000
MMIO = 0x9000
#: mov %al, (%bx); inc %al; dec %cx; jnz back; hlt - in real mode, which every host can run.
STORES = b"\x88\x07\xfe\xc0\x49\x75\xf9\xf4"


@pytest.fixture
def storing(vm_builder: Callable[..., VmBuilder]) -> Iterator[Callable[..., Machine]]:
    """A function that makes a real-mode guest about to store `times` bytes at `address`."""
    made: list[Machine] = []

    def build(times: int, address: int = MMIO) -> Machine:
        machine = vm_builder().memory(0, MEMORY, "anonymous").payload("hello16").build()
        made.append(machine)
        machine.write(0x2000, STORES)
        vcpu = machine.vcpus[0]
        regs = vcpu.get_regs()
        regs.rip, regs.rax, regs.rbx, regs.rcx = 0x2000, 0, address, times
        vcpu.set_regs(regs)
        return machine

    yield build
    for machine in made:
        machine.close()


# ------------------------------------------------------------------ coalesced

COALESCED = pytest.mark.requires_cap("KVM_CAP_COALESCED_MMIO")


@COALESCED
@pytest.mark.scenario("run.coalesced.mmio")
def test_stores_to_a_zone_make_no_exit(storing: Callable[..., Machine]) -> None:
    machine = storing(3)
    machine.register_coalesced_mmio(MMIO, PAGE_SIZE)
    assert isinstance(machine.vcpus[0].run(5), HltExit)
    wanted = [CoalescedWrite(MMIO, bytes([value]), False) for value in range(3)]
    assert machine.vcpus[0].coalesced_writes() == wanted
    assert machine.vcpus[0].coalesced_writes() == []


@COALESCED
@pytest.mark.scenario("run.coalesced.removed")
def test_a_zone_that_is_removed_makes_exits_again(storing: Callable[..., Machine]) -> None:
    machine = storing(1)
    machine.register_coalesced_mmio(MMIO, PAGE_SIZE)
    machine.unregister_coalesced_mmio(MMIO, PAGE_SIZE)
    assert isinstance(machine.vcpus[0].run(5), MmioExit)
    assert machine.vcpus[0].coalesced_writes() == []


@COALESCED
@pytest.mark.scenario("run.coalesced.full")
def test_a_full_ring_makes_an_exit(storing: Callable[..., Machine]) -> None:
    """One place stays free, so that full and empty differ."""
    machine = storing(RING_ENTRIES)
    machine.register_coalesced_mmio(MMIO, PAGE_SIZE)
    vcpu = machine.vcpus[0]
    exit_ = vcpu.run(5)
    assert isinstance(exit_, MmioExit)
    assert exit_.data == bytes([RING_ENTRIES - 1])
    assert [write.data[0] for write in vcpu.coalesced_writes()] == list(range(RING_ENTRIES - 1))
    assert isinstance(vcpu.run(5), HltExit)


@COALESCED
@pytest.mark.requires_cap("KVM_CAP_COALESCED_PIO")
@pytest.mark.scenario("run.coalesced.pio")
def test_a_port_can_be_a_zone(vm_builder: Callable[..., VmBuilder]) -> None:
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello16").build() as machine:
        machine.register_coalesced_mmio(payload.PORT_CONSOLE, 1, pio=True)
        run = machine.run()
        assert (run.console, run.exits) == ("", 1)
        writes = machine.vcpus[0].coalesced_writes()
        assert b"".join(write.data for write in writes) == b"hello from real mode\n"
        assert {(write.address, write.is_pio) for write in writes} == {(payload.PORT_CONSOLE, True)}


# ------------------------------------------------------------------ the dirty log, bit by bit


@pytest.mark.requires_cap("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
@pytest.mark.scenario("kvm.dirty.clear")
def test_a_log_stays_until_its_bits_are_cleared(vm_builder: Callable[..., VmBuilder]) -> None:
    def by_hand(machine: Machine) -> None:
        machine.enable_cap(
            lib.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, lib.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
        )

    builder = vm_builder().before_vcpus(by_hand).memory(0, 1 << 20, "anonymous")
    builder.memory(1 << 20, 128 * PAGE_SIZE, "anonymous", flags=LOG_DIRTY)
    with builder.payload("pattern", start=(1 << 20) + 5 * PAGE_SIZE, pages=2, seed=1).build() as vm:
        assert vm.run().status == 0

        def dirty() -> int:
            return int.from_bytes(vm.get_dirty_log(1), "little")

        assert dirty() == 0b110_0000
        assert dirty() == 0b110_0000
        vm.clear_dirty_log(1, 0, 64, (1 << 5).to_bytes(8, "little"))
        assert dirty() == 0b100_0000
        vm.clear_dirty_log(1, 0, 128, (1 << 6).to_bytes(16, "little"))
        assert dirty() == 0
        refused = vm.try_.clear_dirty_log
        assert refused(1, 1, 64, bytes(8)).errno_name == "EINVAL"  # not a multiple of 64
        assert refused(1, 128, 64, bytes(8)).errno_name == "EINVAL"  # past the end
        assert refused(0, 0, 64, bytes(8)).errno_name == "ENOENT"  # no log


# ------------------------------------------------------------------ the dirty ring

RING = pytest.mark.requires_cap("KVM_CAP_DIRTY_LOG_RING_ACQ_REL")
GPA = 1 << 20


@pytest.fixture
def ringed(vm_builder: Callable[..., VmBuilder]) -> Callable[..., Machine]:
    """A function giving a guest that fills `pages` pages of logged slot 1, with a ring a vCPU."""

    def build(pages: int, ring_size: int = PAGE_SIZE) -> Machine:
        builder = vm_builder().before_vcpus(lambda machine: machine.enable_dirty_ring(ring_size))
        builder.memory(0, 1 << 20, "anonymous")
        builder.memory(GPA, 512 * PAGE_SIZE, "anonymous", flags=LOG_DIRTY)
        return builder.payload("pattern", start=GPA, pages=pages, seed=1).build()

    return build


@RING
@pytest.mark.scenario("kvm.dirty.ring")
def test_written_pages_are_in_the_ring(ringed: Callable[..., Machine]) -> None:
    with ringed(5) as machine, machine.vcpus[0].dirty_ring(PAGE_SIZE) as ring:
        assert machine.run().status == 0
        assert sorted(page.offset for page in ring.harvest() if page.slot == 1) == list(range(5))
        assert machine.reset_dirty_rings() >= 5
        assert machine.reset_dirty_rings() == 0
        machine.enter("pattern", start=GPA + 3 * PAGE_SIZE, pages=1, seed=2)
        assert machine.run().status == 0
        assert DirtyPage(1, 3) in ring.harvest()


@RING
@pytest.mark.scenario("kvm.dirty.ring_full")
def test_a_full_ring_ends_the_run(ringed: Callable[..., Machine]) -> None:
    with ringed(400) as machine, machine.vcpus[0].dirty_ring(PAGE_SIZE) as ring:
        vcpu = machine.vcpus[0]
        seen: set[int] = set()
        full = 0
        while not isinstance(exit_ := vcpu.run(5), (HltExit, IoExit)):
            assert isinstance(exit_, DirtyRingFullExit)
            assert isinstance(vcpu.run(5), DirtyRingFullExit)  # and again, until it is reset
            full += 1
            seen |= {page.offset for page in ring.harvest() if page.slot == 1}
            machine.reset_dirty_rings()
        seen |= {page.offset for page in ring.harvest() if page.slot == 1}
        assert full >= 1
        assert seen == set(range(400))


@RING
@pytest.mark.scenario("kvm.dirty.ring_refused")
def test_rings_are_powers_of_two_and_come_before_vcpus(vm: Vm) -> None:
    largest = vm.check_extension(lib.KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
    for size in (PAGE_SIZE - 16, 3 * PAGE_SIZE, 0):
        assert vm.try_.enable_dirty_ring(size).errno_name == "EINVAL"
    assert vm.try_.enable_dirty_ring(2 * largest).errno_name == "E2BIG"
    with vm.create_vcpu(0) as vcpu:
        assert vm.try_.enable_dirty_ring(PAGE_SIZE).errno_name == "EINVAL"
        with pytest.raises(HarnessError, match="dirty rings have fewer"):
            vcpu.dirty_ring(PAGE_SIZE)
    assert vm.try_.reset_dirty_rings().errno_name == "EINVAL"
