# SPDX-License-Identifier: MIT
"""Scenarios on default VMs: what the pages of a guest_memfd hold, and which are mapped for a guest.

Before zeros are looked for, free memory is filled: they are what guest_memfd made them. What
each gives on which kernel is in contract/guest_memfd.toml.
"""

from __future__ import annotations

import signal

from kvmharness.kvm.mapping import PAGE_SIZE, Mapping
from kvmharness.scenarios.few_fds import no_more_fds
from kvmharness.scenarios.guest_memfd_bench import (
    GPA,
    IN_PLACE,
    PAGES,
    SIZE,
    DefaultBench,
    default_scenario,
)

#: What is written to pages and given back before others are to be zeros: more than a processor
#: keeps in a list of its own, from which the next page comes.
_DIRTY = 4 << 20

#: A slot of five pages at the fourth of a guest_memfd of eleven.
_FILE_PAGES, _FIRST, _SLOT_PAGES = 11, 3, 5


def _dirty_free_memory(bench: DefaultBench) -> None:
    """Leave pages behind that hold something: a guest_memfd's, since its kind has its own lists."""
    with bench.vm.create_guest_memfd(_DIRTY, IN_PLACE) as guest_memfd, guest_memfd.mmap() as memory:
        memory.fill(0, _DIRTY, 0xA5)


def _contents(bench: DefaultBench, mapping: Mapping, label: str, page: int) -> None:
    zeros = not any(mapping.read(page * PAGE_SIZE, PAGE_SIZE))
    bench.fact(label, "zeros" if zeros else "not zeros")


@default_scenario(
    "gmem.zeros.touched", "pages that a touch gives, and allocated ones", "mappable_guest_memfd"
)
def _zeros_touched(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    mapping = bench.mapping(guest_memfd)
    _dirty_free_memory(bench)
    _contents(bench, mapping, "touched", 0)
    bench.step("allocate page 1", guest_memfd.try_.allocate(PAGE_SIZE, PAGE_SIZE))
    _contents(bench, mapping, "allocated, then touched", 1)
    mapping.fill(0, SIZE, 0x5A)
    bench.step("punch all", guest_memfd.try_.punch_hole(0, SIZE))
    _dirty_free_memory(bench)
    bench.step("allocate all", guest_memfd.try_.allocate(0, SIZE))
    zeros = not any(mapping.read(0, SIZE))
    bench.fact("all of them again", "zeros" if zeros else "not zeros")


@default_scenario(
    "gmem.zeros.pre_faulted",
    "pages that the guest is given first, then the host",
    "mappable_guest_memfd",
    "pre_fault",
)
def _zeros_pre_faulted(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    mapping = bench.mapping(guest_memfd)
    bench.bind("bind", guest_memfd)
    vcpu = bench.keep(bench.vm.try_.create_vcpu(0)).unwrap()
    for label in ("pre-fault", "pre-fault once more"):
        _dirty_free_memory(bench)
        bench.step(label, vcpu.try_.pre_fault_memory(GPA, SIZE))
        for page in (0, PAGES - 1):
            _contents(bench, mapping, f"page {page}", page)
        mapping.fill(0, SIZE, 0x5A)
        bench.step("punch all", guest_memfd.try_.punch_hole(0, SIZE))


@default_scenario(
    "gmem.zeros.neighbours", "holes whose neighbours keep what they hold", "mappable_guest_memfd"
)
def _zeros_neighbours(bench: DefaultBench) -> None:
    size = _FILE_PAGES * PAGE_SIZE
    guest_memfd = bench.memfd(IN_PLACE, size)
    mapping = bench.mapping(guest_memfd)
    for first, pages in ((0, 1), (3, 5), (10, 1)):
        mapping.fill(0, size, 0x5A)
        punch = guest_memfd.try_.punch_hole(first * PAGE_SIZE, pages * PAGE_SIZE)
        bench.step(f"punch {pages} from {first}", punch)
        held = [page for page in range(_FILE_PAGES) if any(mapping.read(page * PAGE_SIZE, 1))]
        kept = [page for page in range(_FILE_PAGES) if not first <= page < first + pages]
        bench.fact("pages with contents", "as before" if held == kept else "changed", str(held))


# ------------------------------------------------------------------ mapped for the guest


def _mapped(bench: DefaultBench, label: str) -> None:
    pages = bench.vm.stats()["pages_4k"]
    assert isinstance(pages, int)
    bench.fact(f"pages mapped {label}", pages)


@default_scenario(
    "gmem.mapped.punch",
    "what holes take out of a slot at an offset, as KVM counts it",
    "mappable_guest_memfd",
    "pre_fault",
)
def _mapped_punch(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE, _FILE_PAGES * PAGE_SIZE)
    bench.bind("bind", guest_memfd, offset=_FIRST * PAGE_SIZE, size=_SLOT_PAGES * PAGE_SIZE)
    vcpu = bench.keep(bench.vm.try_.create_vcpu(0)).unwrap()
    bench.step("pre-fault", vcpu.try_.pre_fault_memory(GPA, _SLOT_PAGES * PAGE_SIZE))
    _mapped(bench, "at first")
    for first, pages in ((0, 3), (8, 3), (6, 4), (2, 2), (0, 11)):
        guest_memfd.punch_hole(first * PAGE_SIZE, pages * PAGE_SIZE)
        _mapped(bench, f"without pages {first} to {first + pages - 1} of the file")
    bench.step("pre-fault again", vcpu.try_.pre_fault_memory(GPA, _SLOT_PAGES * PAGE_SIZE))
    _mapped(bench, "again")


@default_scenario(
    "gmem.mapped.closed",
    "what the end of a slot, and of a guest_memfd, take out",
    "mappable_guest_memfd",
    "pre_fault",
)
def _mapped_closed(bench: DefaultBench) -> None:
    first, second = bench.memfd(IN_PLACE), bench.memfd(IN_PLACE)
    bench.bind("bind", first)
    bench.bind("bind another", second, slot=1, gpa=2 * GPA)
    vcpu = bench.keep(bench.vm.try_.create_vcpu(0)).unwrap()
    for gpa in (GPA, 2 * GPA):
        bench.step("pre-fault", vcpu.try_.pre_fault_memory(gpa, SIZE))
    _mapped(bench, "at first")
    second.close(let_go=True)
    _mapped(bench, "with one slot's guest_memfd closed")
    bench.bind("delete the other", first, size=0)
    _mapped(bench, "with the other deleted")
    for label, gpa in (("the deleted slot", GPA), ("the closed guest_memfd", 2 * GPA)):
        bench.step(f"pre-fault {label}", vcpu.try_.pre_fault_memory(gpa, SIZE))


# ------------------------------------------------------------------ without fds


@default_scenario("gmem.create.no_fd", "a guest_memfd and a vCPU for which the process has no fd")
def _create_no_fd(bench: DefaultBench) -> None:
    vm = bench.vm
    bench.memfd()
    with no_more_fds():
        bench.step("a guest_memfd", bench.keep(vm.try_.create_guest_memfd(SIZE)))
        bench.step("a vCPU", bench.keep(vm.try_.create_vcpu(0)))
        bench.step("a VM", bench.keep(bench.kvm.try_.create_vm()))
    guest_memfd = bench.step("a guest_memfd again", bench.keep(vm.try_.create_guest_memfd(SIZE)))
    bench.step("the vCPU again", bench.keep(vm.try_.create_vcpu(0)))
    if guest_memfd.value is not None:
        bench.bind("a slot of it", guest_memfd.value)


# ------------------------------------------------------------------ signals

#: Pages enough for a signal to come while they are allocated, seconds between signals, and how
#: often it is tried until one has come.
_MANY, _EVERY, _TRIES = 64 << 20, 0.002, 50


@default_scenario("gmem.signal.allocate", "a signal while pages are allocated; then a hole")
def _signal_allocate(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(size=_MANY)
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    outer = signal.setitimer(signal.ITIMER_REAL, _EVERY, _EVERY)
    try:
        for _ in range(_TRIES):
            allocated = guest_memfd.try_.allocate(0, _MANY)
            if not allocated.ok:
                break
            guest_memfd.punch_hole(0, _MANY)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, before)
    bench.step("allocate, with a signal meanwhile", allocated)
    bench.step("punch all", guest_memfd.try_.punch_hole(0, _MANY))
    bench.step("allocate the first pages", guest_memfd.try_.allocate(0, SIZE))
