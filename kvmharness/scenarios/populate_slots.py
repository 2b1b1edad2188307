# SPDX-License-Identifier: MIT
"""What SNP and TDX populate alike: slots and ranges that no round number begins or ends.

A slot of five pages at the fourth of a guest_memfd, ranges that became private part by part or
straddle 2 MiB; the first, a middle and the last page of each used afterwards, and their neighbours.
What each gives on which kernel is in contract/*.toml.
"""

from __future__ import annotations

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.scenarios.few_fds import no_more_fds
from kvmharness.scenarios.populate import populate_scenario
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench

#: The guest_memfd's pages, those of the slot in it, and the slot's first gfn.
_FILE_PAGES = 11
_FIRST, _PAGES = 3, 5
_GFN = SLOT_PAGES + 3

_HUGE = 512
#: The slot in which attributes are tried at 2 MiB scale: its first gfn, and its pages (16 MiB).
_HUGE_GFN = 2 * _HUGE
_HUGE_PAGES = 8 * _HUGE


def bind_at_offset(bench: PopulateBench) -> GuestMemfd:
    """Bind pages 3 to 7 of a guest_memfd of 11 as a slot at gfn 67, all of it private."""
    machine = bench.machine
    guest_memfd = bench.keep(machine.try_.create_guest_memfd(_FILE_PAGES * PAGE_SIZE)).unwrap()
    _bind(bench, 1, _GFN, _FIRST, _PAGES, guest_memfd)
    machine.set_private(_GFN * PAGE_SIZE, (_PAGES + 1) * PAGE_SIZE)
    return guest_memfd


def _bind(
    bench: PopulateBench, slot: int, gfn: int, page: int, pages: int, guest_memfd: GuestMemfd
) -> None:
    machine = bench.machine
    machine.set_user_memory_region2(
        slot,
        gfn * PAGE_SIZE,
        pages * PAGE_SIZE,
        machine.slots[0].mapping.address,
        lib.KVM_MEM_GUEST_MEMFD,
        guest_memfd,
        page * PAGE_SIZE,
    )


def _punch(bench: PopulateBench, guest_memfd: GuestMemfd, page: int, pages: int) -> None:
    result = guest_memfd.try_.punch_hole(page * PAGE_SIZE, pages * PAGE_SIZE)
    bench.step(f"punch pages {page} to {page + pages - 1}", result)


@populate_scenario("slot.offset", "a slot of five pages at an offset, populated past its end")
def _offset(bench: PopulateBench) -> None:
    bind_at_offset(bench)
    source = bench.source("aligned", _PAGES + 1)
    bench.populate(_GFN, _PAGES + 1, source)
    for page in (0, _PAGES - 1):
        bench.populate(_GFN + page, 1, source)


@populate_scenario("slot.offset_middle", "from the third page of a slot at an offset to its end")
def _offset_middle(bench: PopulateBench) -> None:
    bind_at_offset(bench)
    bench.populate(_GFN + 2, _PAGES - 2, bench.source("aligned", _PAGES))
    bench.populate(_GFN, 2, bench.source("aligned", _PAGES))


@populate_scenario("slot.offset_punched", "pages of a slot at an offset punched out, and others")
def _offset_punched(bench: PopulateBench) -> None:
    guest_memfd = bind_at_offset(bench)
    source = bench.source("aligned", _PAGES)
    bench.populate(_GFN, _PAGES, source)
    _punch(bench, guest_memfd, 0, _FIRST)
    _punch(bench, guest_memfd, _FIRST + _PAGES, _FILE_PAGES - _FIRST - _PAGES)
    for page in (0, _PAGES - 1):
        bench.populate(_GFN + page, 1, source)
    _punch(bench, guest_memfd, _FIRST + _PAGES - 1, 2)
    _punch(bench, guest_memfd, _FIRST - 1, 2)
    for page in (0, _PAGES - 1, 2):
        bench.populate(_GFN + page, 1, source)


@populate_scenario(
    "slot.neighbours", "three slots side by side in one guest_memfd, each deleted and made again"
)
def _neighbours(bench: PopulateBench) -> None:
    machine = bench.machine
    guest_memfd = bind_at_offset(bench)
    source = bench.source("aligned", _PAGES)
    before, after, last = _GFN + 0x10, _GFN + 0x20, _FILE_PAGES - _FIRST - _PAGES
    slots = ((1, _GFN, _FIRST, _PAGES), (2, before, 0, _FIRST), (3, after, _FIRST + _PAGES, last))
    for slot in slots[1:]:
        _bind(bench, *slot, guest_memfd)
    machine.set_private(before * PAGE_SIZE, 0x20 * PAGE_SIZE)
    for number, gfn, page, pages in slots:
        for label, size in (("delete", 0), ("make again", pages)):
            result = machine.try_.set_user_memory_region2(
                number,
                gfn * PAGE_SIZE,
                size * PAGE_SIZE,
                machine.slots[0].mapping.address,
                lib.KVM_MEM_GUEST_MEMFD,
                guest_memfd,
                page * PAGE_SIZE,
            )
            bench.step(f"{label} slot {number}", result)
    bench.populate(before + _FIRST - 1, 1, source)
    bench.populate(after, last, source)
    bench.populate(_GFN, _PAGES, source)
    bench.populate(before, _FIRST - 1, source)


# ------------------------------------------------------------------ attributes


@populate_scenario(
    "range.part_first", "four pages made private after one of them: the first, the last, the third"
)
def _part_first(bench: PopulateBench) -> None:
    bench.make_without_attributes()
    source = bench.source("aligned", 4)
    for gfn, part in ((0, 0), (8, 3), (16, 2)):
        bench.machine.set_private((gfn + part) * PAGE_SIZE, PAGE_SIZE)
        bench.machine.set_private(gfn * PAGE_SIZE, 4 * PAGE_SIZE)
        bench.populate(gfn, 4, source)
        bench.populate(gfn + 4, 1, source)


@populate_scenario(
    "range.part_shared", "four pages made shared and private again after one of them was shared"
)
def _part_shared(bench: PopulateBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    for gfn, part in ((0, 0), (8, 3), (16, 2)):
        machine.set_shared((gfn + part) * PAGE_SIZE, PAGE_SIZE)
        machine.set_shared(gfn * PAGE_SIZE, 4 * PAGE_SIZE)
        for page in (0, 3):
            bench.populate(gfn + page, 1, source)
        bench.populate(gfn + 4, 1, source)


@populate_scenario(
    "range.huge_attributes", "attributes that straddle 2 MiB, of a slot of 16 MiB and before it is"
)
def _huge_attributes(bench: PopulateBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 2)
    # From the last page of the slot's second 2 MiB to the first of its fifth.
    first, last = _HUGE_GFN + 2 * _HUGE - 1, _HUGE_GFN + 4 * _HUGE
    size = (last + 1 - first) * PAGE_SIZE
    machine.set_private(first * PAGE_SIZE, size)
    guest_memfd = bench.keep(machine.try_.create_guest_memfd(_HUGE_PAGES * PAGE_SIZE)).unwrap()
    _bind(bench, 1, _HUGE_GFN, 0, _HUGE_PAGES, guest_memfd)
    bench.populate(first - 1, 1, source)
    bench.populate(first, 2, source)
    bench.populate(last, 1, source)
    bench.populate(last + 1, 1, source)
    machine.set_shared((first + 1) * PAGE_SIZE, size - 2 * PAGE_SIZE)
    bench.populate(first + 3, 1, source)
    bench.populate(last - 1, 1, source)
    machine.set_private(_HUGE_GFN * PAGE_SIZE, _HUGE_PAGES * PAGE_SIZE)
    bench.populate(last - 1, 1, source)
    bench.populate(_HUGE_GFN, 1, source)
    bench.populate(_HUGE_GFN + _HUGE_PAGES - 1, 1, source)


# ------------------------------------------------------------------ without fds


# Two CPUs: of a TD KVM makes no more vCPUs than there are.
@populate_scenario(
    "state.vcpu_no_fd", "a vCPU for which the process has no fd, then once more", "two_cpus"
)
def _vcpu_no_fd(bench: PopulateBench) -> None:
    machine = bench.machine
    with no_more_fds():
        bench.step("KVM_CREATE_VCPU", bench.keep(machine.try_.create_vcpu(1)))
    bench.step("KVM_CREATE_VCPU again", bench.keep(machine.try_.create_vcpu(1)))
