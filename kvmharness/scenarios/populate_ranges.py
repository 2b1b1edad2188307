# SPDX-License-Identifier: MIT
"""What SNP and TDX populate alike: which pages, in what state, in which slots.

Declared as in populate.py, for both. What each gives on which kernel is in contract/*.toml.
"""

from __future__ import annotations

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.scenarios.populate import populate_scenario
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench

# ------------------------------------------------------------------ attributes


@populate_scenario("range.not_private", "a page whose attribute is shared")
def _not_private(bench: PopulateBench) -> None:
    bench.machine.set_shared(0, PAGE_SIZE)
    bench.populate(0, 1, bench.source("aligned", 1))


@populate_scenario("range.partly_private", "four pages, the third shared, then private again")
def _partly_private(bench: PopulateBench) -> None:
    bench.machine.set_shared(2 * PAGE_SIZE, PAGE_SIZE)
    source = bench.source("aligned", 4)
    bench.populate_on(0, 4, source)
    bench.machine.set_private(2 * PAGE_SIZE, PAGE_SIZE)
    bench.populate(2, 2, source.address + 2 * PAGE_SIZE)


@populate_scenario("range.attribute_never_set", "pages whose attributes were never set")
def _attribute_never_set(bench: PopulateBench) -> None:
    bench.make_without_attributes()
    bench.populate(0, 1, bench.source("aligned", 1))


@populate_scenario(
    "range.flipped", "a populated page made shared and private again, populated again in between"
)
def _flipped(bench: PopulateBench) -> None:
    attributes = bench.machine.try_.set_memory_attributes
    source = bench.source("aligned", 2)
    bench.populate(0, 2, source)
    bench.step("make page 1 shared", attributes(PAGE_SIZE, PAGE_SIZE, 0))
    bench.populate(1, 1, source)
    private = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
    bench.step("make page 1 private", attributes(PAGE_SIZE, PAGE_SIZE, private))
    bench.populate(1, 1, source)


# ------------------------------------------------------------------ pages that are there already


@populate_scenario("range.partly_populated", "four pages, the third populated before")
def _partly_populated(bench: PopulateBench) -> None:
    source = bench.source("aligned", 4)
    bench.populate(2, 1, source)
    bench.populate_on(0, 4, source)
    bench.populate(3, 1, source.address + 3 * PAGE_SIZE)


@populate_scenario("range.punched", "populated pages punched out of the guest_memfd, then again")
def _punched(bench: PopulateBench) -> None:
    source = bench.source("aligned", 4)
    bench.populate(0, 4, source)
    bench.step("punch pages 1 and 2", bench.guest_memfd.try_.punch_hole(PAGE_SIZE, 2 * PAGE_SIZE))
    bench.populate(1, 2, source)
    bench.populate(0, 1, source)


# ------------------------------------------------------------------ slots


@populate_scenario("range.no_slot", "a gfn that no memslot holds, though it is private")
def _no_slot(bench: PopulateBench) -> None:
    bench.machine.set_private((SLOT_PAGES + 100) * PAGE_SIZE, PAGE_SIZE)
    bench.populate(SLOT_PAGES + 100, 1, bench.source("aligned", 1))


@populate_scenario("range.past_slot_end", "a range that runs past its slot's end")
def _past_slot_end(bench: PopulateBench) -> None:
    source = bench.source("aligned", 4)
    bench.populate(SLOT_PAGES - 2, 4, source)
    bench.populate(SLOT_PAGES, 2, source.address + 2 * PAGE_SIZE)


@populate_scenario("range.slot_end", "the slot's last page alone")
def _slot_end(bench: PopulateBench) -> None:
    bench.populate(SLOT_PAGES - 1, 1, bench.source("aligned", 1))


@populate_scenario("range.whole_slot", "the whole slot in one call")
def _whole_slot(bench: PopulateBench) -> None:
    bench.populate(0, SLOT_PAGES, bench.source("aligned", SLOT_PAGES))


@populate_scenario("range.two_slots", "a range over two adjacent slots")
def _two_slots(bench: PopulateBench) -> None:
    machine = bench.machine
    second = bench.keep(machine.try_.create_guest_memfd(4 * PAGE_SIZE)).unwrap()
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region2(
        1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address, lib.KVM_MEM_GUEST_MEMFD, second
    )
    machine.set_private(gpa, 4 * PAGE_SIZE)
    bench.populate_on(SLOT_PAGES - 2, 4, bench.source("aligned", 4))


@populate_scenario("range.slot_without_guest_memfd", "a memslot without a guest_memfd")
def _slot_without_guest_memfd(bench: PopulateBench) -> None:
    machine = bench.machine
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region(1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address)
    machine.set_private(gpa, 4 * PAGE_SIZE)
    bench.populate(SLOT_PAGES, 1, bench.source("aligned", 1))


@populate_scenario("range.slot_deleted", "the memslot deleted before the call")
def _slot_deleted(bench: PopulateBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    slot = machine.slots[0]
    result = machine.try_.set_user_memory_region2(
        0, 0, 0, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
    )
    bench.step("delete the slot", result)
    bench.populate(1, 1, source)


@populate_scenario(
    "range.slot_again", "a populated page's slot deleted, made again, populated again"
)
def _slot_again(bench: PopulateBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    slot = machine.slots[0]
    bench.populate(0, 1, source)
    for size in (0, slot.size):
        machine.set_user_memory_region2(
            0, 0, size, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
        )
    bench.populate(0, 1, source)
    bench.populate(1, 1, source)


@populate_scenario("range.fd_closed", "the guest_memfd's fd closed before the call")
def _fd_closed(bench: PopulateBench) -> None:
    bench.guest_memfd.close(let_go=True)
    bench.populate(0, 1, bench.source("aligned", 1))
