# SPDX-License-Identifier: MIT
"""How many pages of a guest are mapped for it, in KVM's own count, as they come and go.

KVM's statistic pages_4k counts the present entries of the page tables that the guest runs on: what
a punched hole, a conversion or a deleted slot took out, and what it left, shows without a guest.
"""

from __future__ import annotations

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.scenarios.populate import populate_scenario
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench
from kvmharness.scenarios.populate_slots import bind_at_offset

_GFN = SLOT_PAGES + 3
_PAGES = 5


def _mapped(bench: PopulateBench, label: str) -> None:
    pages = bench.machine.stats()["pages_4k"]
    assert isinstance(pages, int)
    bench.fact(f"pages mapped {label}", pages)


def _ready(bench: PopulateBench) -> None:
    bench.first_vcpu()
    bench.populate(0, 2, bench.source("aligned", 2))


@populate_scenario(
    "mapped.punch", "what holes take out of a slot and of one at an offset", "pre_fault"
)
def _punch(bench: PopulateBench) -> None:
    _ready(bench)
    second = bind_at_offset(bench)
    bench.finish()
    first = bench.guest_memfd
    bench.pre_fault(0, 8)
    bench.pre_fault(_GFN, _PAGES)
    _mapped(bench, "at first")
    first.punch_hole(2 * PAGE_SIZE, 3 * PAGE_SIZE)
    _mapped(bench, "without pages 2 to 4")
    second.punch_hole(0, 3 * PAGE_SIZE)
    second.punch_hole(8 * PAGE_SIZE, 3 * PAGE_SIZE)
    _mapped(bench, "after holes around the slot")
    second.punch_hole(6 * PAGE_SIZE, 4 * PAGE_SIZE)
    _mapped(bench, "without the slot's last two")
    second.punch_hole(2 * PAGE_SIZE, 2 * PAGE_SIZE)
    _mapped(bench, "without its first")
    bench.pre_fault(_GFN, _PAGES)
    bench.pre_fault(0, 8)
    _mapped(bench, "with all again")


@populate_scenario(
    "mapped.convert", "what conversions to shared take out, at and across the edges", "pre_fault"
)
def _convert(bench: PopulateBench) -> None:
    _ready(bench)
    bind_at_offset(bench)
    bench.finish()
    machine = bench.machine
    bench.pre_fault(SLOT_PAGES - 4, 4)
    bench.pre_fault(_GFN, _PAGES)
    _mapped(bench, "at first")
    machine.set_shared((SLOT_PAGES - 2) * PAGE_SIZE, 2 * PAGE_SIZE)
    _mapped(bench, "without the first slot's last two")
    machine.set_shared((SLOT_PAGES - 3) * PAGE_SIZE, 7 * PAGE_SIZE)
    _mapped(bench, "without the one before them, and the second slot's first")
    machine.set_shared((_GFN + 3) * PAGE_SIZE, PAGE_SIZE)
    _mapped(bench, "without one in the middle")
    machine.set_private((_GFN + 3) * PAGE_SIZE, PAGE_SIZE)
    bench.pre_fault(_GFN + 1, 4)
    _mapped(bench, "with it again")


@populate_scenario(
    "mapped.slot_gone", "a slot deleted, and the guest_memfd of another closed", "pre_fault"
)
def _slot_gone(bench: PopulateBench) -> None:
    _ready(bench)
    second = bind_at_offset(bench)
    bench.finish()
    machine, slot = bench.machine, bench.machine.slots[0]
    bench.pre_fault(0, 4)
    bench.pre_fault(_GFN, _PAGES)
    _mapped(bench, "at first")
    machine.set_user_memory_region2(
        0, 0, 0, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
    )
    _mapped(bench, "with one slot deleted")
    second.close(let_go=True)
    _mapped(bench, "with the other's guest_memfd closed")
    bench.pre_fault(_GFN, 1)
