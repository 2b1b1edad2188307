# SPDX-License-Identifier: MIT
"""Slots without a guest_memfd: their flags and limits, and what guests see of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import pytest

from kvmharness import HarnessError, Kvm, Machine, Vm, VmBuilder
from kvmharness.kvm import ioctl
from kvmharness.kvm.exits import InternalErrorExit, MmioExit, ShutdownExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PAGE_SIZE,
    Mapping,
    map_memory,
)
from kvmharness.machine.payload import TOUCH_WRITE, pattern_page, touch_mark, touch_table
from kvmharness.machine.running import VcpuThread

GPA = 0x4000_0000
LOG_DIRTY = lib.KVM_MEM_LOG_DIRTY_PAGES
READONLY = lib.KVM_MEM_READONLY


@pytest.mark.scenario("kvm.memslot.flags")
def test_each_flag_is_taken_by_the_form_that_knows_it(vm: Vm) -> None:
    """The first form never takes KVM_MEM_GUEST_MEMFD; no form takes an unknown flag."""
    v1 = LOG_DIRTY | READONLY
    wrong = {}
    for bit in range(32):
        flag = 1 << bit
        wanted = "ok" if v1 & flag else "EINVAL"
        outcomes = [vm.try_.set_user_memory_region(0, GPA, PAGE_SIZE, 0, flag)]
        if outcomes[0].ok:
            vm.set_user_memory_region(0, 0, 0, 0)
        if flag != lib.KVM_MEM_GUEST_MEMFD and vm.check_extension(lib.KVM_CAP_USER_MEMORY2):
            outcomes.append(vm.try_.set_user_memory_region2(0, GPA, PAGE_SIZE, 0, flag))
            if outcomes[1].ok:
                vm.set_user_memory_region2(0, 0, 0, 0)
        if any(outcome.errno_name != wanted for outcome in outcomes):
            wrong[bit] = [str(outcome) for outcome in outcomes]
    assert not wrong


@pytest.mark.scenario("kvm.memslot.limit")
def test_the_highest_slot_is_the_capabilitys(kvm: Kvm, vm: Vm) -> None:
    count = kvm.check_extension(lib.KVM_CAP_NR_MEMSLOTS)
    assert count > 0
    assert vm.try_.set_user_memory_region(count - 1, GPA, PAGE_SIZE, 0).errno_name == "ok"
    refused = vm.try_.set_user_memory_region(count, GPA + PAGE_SIZE, PAGE_SIZE, 0)
    assert refused.errno_name == "EINVAL"


@pytest.mark.scenario("kvm.memslot.churn")
def test_a_slot_is_made_and_deleted_many_times_in_one_go(vm: Vm) -> None:
    with map_memory(PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as memory:
        assert vm.churn_memslot(3, GPA, PAGE_SIZE, memory, 20) == 40
        assert 3 not in vm.memslots
        # Another slot is in the way: the first is refused, and nothing is held.
        vm.set_user_memory_region(0, GPA, PAGE_SIZE, 0)
        result = vm.try_.churn_memslot(3, GPA, PAGE_SIZE, memory, 20)
        assert (result.errno_name, result.written_back) == ("EEXIST", (0,))
        vm.set_user_memory_region(0, GPA, 0, 0)
        assert vm.churn_memslot(3, GPA, PAGE_SIZE, memory, 1, LOG_DIRTY) == 2


@pytest.mark.scenario("kvm.memslot.none")
def test_running_without_memory_is_an_internal_error(vm: Vm) -> None:
    """The reset vector is MMIO, and MMIO can't be executed: emulation fails."""
    with vm.create_vcpu(0) as vcpu:
        assert ioctl.call(vm.fileno(), "KVM_SET_NR_MMU_PAGES", 64).ok
        exit_ = vcpu.run(5)
        assert isinstance(exit_, InternalErrorExit)
        assert exit_.suberror == lib.KVM_INTERNAL_ERROR_EMULATION


@pytest.mark.scenario("kvm.memslot.size_limit")
def test_a_slot_is_smaller_than_2_to_the_31_pages(vm: Vm) -> None:
    """The dirty log counts pages in an unsigned int (KVM_MEM_MAX_NR_PAGES)."""
    # One page less is accepted, after a minute of allocating what KVM keeps for each page.
    assert vm.try_.set_user_memory_region(0, 0, 2**31 * PAGE_SIZE, 0).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.memslot.move")
def test_an_anonymous_slot_moves_with_its_contents(vm_builder: Callable[..., VmBuilder]) -> None:
    """Unlike one with a guest_memfd (gmem.slot.immutable)."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(GPA, 1 << 20, "anonymous")
    with builder.payload("pattern", start=GPA, pages=2, seed=4).build() as machine:
        assert machine.run().status == 0
        slot = machine.slots[1]
        there = GPA + (1 << 21)
        machine.set_user_memory_region(1, there, slot.size, slot.mapping.address)
        machine.enter("pattern", start=there + PAGE_SIZE, pages=1, seed=5)
        assert machine.run().status == 0
        assert slot.mapping.read(0, PAGE_SIZE) == pattern_page(4, GPA)
        assert slot.mapping.read(PAGE_SIZE, PAGE_SIZE) == pattern_page(5, there + PAGE_SIZE)
        machine.enter("pattern", start=GPA, pages=1, seed=6)
        run = machine.run()
        assert isinstance(run.exit, MmioExit)
        assert run.exit.gpa == GPA


#: KVM_X86_QUIRK_SLOT_ZAP_ALL (6.12): a changed slot takes all memory's mappings away, or its own.
SLOT_ZAP_ALL = lib.KVM_X86_QUIRK_SLOT_ZAP_ALL


@pytest.fixture(params=[True, False], ids=["zap-all", "zap-slot"])
def ticking(
    request: pytest.FixtureRequest, kvm: Kvm, vm_builder: Callable[..., VmBuilder]
) -> Iterator[Machine]:
    """A machine whose guest counts at GPA, a slot of its own, while the test goes on."""
    if not request.param and not kvm.check_extension(lib.KVM_CAP_DISABLE_QUIRKS2) & SLOT_ZAP_ALL:
        pytest.skip("this kernel has no KVM_X86_QUIRK_SLOT_ZAP_ALL to disable")
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(GPA, 1 << 20, "anonymous")
    with builder.payload("ticker", counter=GPA).build() as machine:
        if not request.param:
            machine.enable_cap(lib.KVM_CAP_DISABLE_QUIRKS2, SLOT_ZAP_ALL)
        yield machine


def start_ticking(machine: Machine) -> VcpuThread:
    """Run the guest, which need not be at its beginning, until its counter is seen to move."""
    begin = machine.read(GPA, 8)
    thread = machine.start(timeout=20)
    deadline = time.monotonic() + 5
    while machine.read(GPA, 8) == begin:
        assert time.monotonic() < deadline, "the guest does not count"
        time.sleep(0.001)
    return thread


@pytest.mark.scenario("kvm.memslot.move_running")
def test_moving_a_slot_under_a_running_guest(ticking: Machine) -> None:
    """What it counts in is gone until the slot is back; then it goes on where it was."""
    slot = ticking.slots[1]
    for _ in range(5):
        thread = start_ticking(ticking)
        ticking.set_user_memory_region(1, GPA + (1 << 21), slot.size, slot.mapping.address)
        run = thread.join()
        assert isinstance(run.exit, MmioExit)
        assert run.exit.gpa == GPA
        last = slot.mapping.read(0, 8)
        ticking.set_user_memory_region(1, GPA, slot.size, slot.mapping.address)
        assert slot.mapping.read(0, 8) == last


@pytest.mark.scenario("kvm.memslot.code_deleted_running")
def test_deleting_the_slot_of_a_running_guests_code(ticking: Machine) -> None:
    """There is nothing to fetch: KVM can't go on, or the processor shuts down."""
    thread = start_ticking(ticking)
    ticking.set_user_memory_region(0, 0, 0, ticking.slots[0].mapping.address)
    assert isinstance(thread.join().exit, InternalErrorExit | ShutdownExit)


@pytest.mark.scenario("kvm.memslot.resize")
def test_an_anonymous_slot_does_not_change_size_or_address(vm: Vm) -> None:
    vm.set_user_memory_region(0, GPA, 4 * PAGE_SIZE, 0)
    for size, address in ((2 * PAGE_SIZE, 0), (8 * PAGE_SIZE, 0), (4 * PAGE_SIZE, 1 << 20)):
        assert vm.try_.set_user_memory_region(0, GPA, size, address).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.memslot.dirty_log")
def test_the_dirty_log_names_the_pages_written(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    builder.memory(GPA, 128 * PAGE_SIZE, "anonymous", flags=LOG_DIRTY)
    pages = (0, 1, 63, 64, 127)
    with builder.payload("hello").build() as machine:
        table = [(GPA + page * PAGE_SIZE, TOUCH_WRITE) for page in pages]
        table.append((GPA + 5 * PAGE_SIZE, 0))  # read only: not dirty
        machine.write(0x2_0000, touch_table(table))
        machine.enter("touch", table=0x2_0000, count=len(table))
        assert machine.run().status == 0
        bitmap = int.from_bytes(machine.get_dirty_log(1, 128), "little")
        assert bitmap == sum(1 << page for page in pages)
        assert not any(machine.get_dirty_log(1, 128))  # reading it cleared it
        assert machine.try_.get_dirty_log(0, 256).errno_name == "ENOENT"  # slot 0 keeps none


@pytest.mark.scenario("kvm.memslot.read_only")
@pytest.mark.requires_cap("KVM_CAP_READONLY_MEM")
def test_a_write_to_a_read_only_slot_is_mmio(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    builder.memory(GPA, PAGE_SIZE, "anonymous", flags=READONLY)
    with builder.payload("hello").build() as machine:
        machine.write(GPA, (77).to_bytes(8, "little"))
        machine.write(0x2_0000, touch_table([(GPA, 0), (GPA, TOUCH_WRITE)]))
        machine.enter("touch", table=0x2_0000, count=2)
        run = machine.run()
        assert isinstance(run.exit, MmioExit)
        assert (run.exit.is_write, run.exit.gpa) == (True, GPA)
        assert run.exit.data == touch_mark(GPA).to_bytes(8, "little")
        assert run.words[:2] == [GPA, 77]
        assert machine.read(GPA, 8) == (77).to_bytes(8, "little")


def anonymous(size: int) -> Mapping:
    return map_memory(size, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)


@pytest.mark.scenario("kvm.memslot.dirty_log_size")
def test_the_dirty_log_of_a_large_slot_asked_for_by_a_page(vm: Vm) -> None:
    """KVM writes 32 KiB of bitmap for 1 GiB, whatever the caller believes of the slot."""
    with anonymous(1 << 30) as memory:
        vm.set_user_memory_region(0, 0, memory.size, memory, LOG_DIRTY)
        for _ in range(50):
            assert vm.get_dirty_log(0, 1) == bytes(1 << 15)


@pytest.mark.scenario("kvm.memslot.keeps_memory")
def test_a_slot_keeps_memory_that_nobody_else_refers_to(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    """Collected, its address would be the next mapping's, and the guest's stores would go there."""
    with vm_builder().memory(0, 1 << 20, "anonymous").payload("hello").build() as machine:

        def give_memory() -> int:
            memory = anonymous(2 * PAGE_SIZE)
            machine.set_user_memory_region(9, GPA, memory.size, memory.address)
            return memory.address

        address = give_memory()
        gc.collect()
        others = [anonymous(2 * PAGE_SIZE) for _ in range(4)]
        assert address not in [other.address for other in others]
        machine.enter("pattern", start=GPA, pages=2, seed=3)
        assert machine.run().status == 0
        assert not any(any(other.read()) for other in others)
        for other in others:
            other.close()


@pytest.mark.scenario("kvm.memslot.closed_under")
def test_memory_is_not_closed_under_a_slot_unless_told(vm: Vm) -> None:
    memory = anonymous(PAGE_SIZE)
    vm.set_user_memory_region(3, GPA, memory.size, memory.address)
    with pytest.raises(HarnessError, match=r"memslot 3 \(gpa 0x40000000\)"):
        memory.close()
    memory.close(let_go=True)
    vm.set_user_memory_region(3, 0, 0, 0)
