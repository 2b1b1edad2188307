# SPDX-License-Identifier: MIT
"""Source buffers: what the kernel would find at ``address``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.errors import HarnessError, InaccessibleMemory, MissingCapability
from kvmharness.kvm.mapping import PAGE_SIZE, PROT_NONE, PROT_READ, guarded_read, guarded_write
from kvmharness.kvm.vm import Vm
from kvmharness.launch.source import HUGE_PAGE_SIZE, SourceBuffer, numbered_pages, unmapped_address


def test_numbered_pages_tell_where_they_belong() -> None:
    pages = numbered_pages(3)
    assert len(pages) == 3 * PAGE_SIZE
    for page in range(3):
        word = (page + 1).to_bytes(8, "little")
        assert pages[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] == word * 512


@pytest.mark.parametrize("offset", [0, 1, 8, 512, PAGE_SIZE - 1])
def test_misaligned_by_exactly_so_much(offset: int) -> None:
    with SourceBuffer.anonymous(2, offset=offset) as source:
        assert source.address % PAGE_SIZE == offset
        assert source.size == 2 * PAGE_SIZE
        assert guarded_read(source.address, source.size) == numbered_pages(2)
        assert source.page(1) == numbered_pages(2)[PAGE_SIZE:]
        # All of the last page's copy lies in mapped memory, though it straddles.
        assert source.mapping.size >= offset + source.size


def test_contents_of_choice() -> None:
    with SourceBuffer.anonymous(1, contents=b"short", offset=3) as source:
        assert source.page(0) == b"short".ljust(PAGE_SIZE, b"\0")


@pytest.mark.parametrize("prot", [PROT_READ, PROT_NONE])
def test_protected_after_it_was_filled(prot: int) -> None:
    with SourceBuffer.anonymous(1, prot=prot) as source:
        with pytest.raises(InaccessibleMemory):
            guarded_write(source.address, b"x")
        if prot == PROT_READ:
            assert source.page(0) == numbered_pages(1)
        else:
            with pytest.raises(InaccessibleMemory):
                source.page(0)


def test_a_hole_where_it_was_asked_for() -> None:
    with SourceBuffer.anonymous(4, hole=(1, 2)) as source:
        assert source.page(0) == numbered_pages(1)
        assert source.page(3) == numbered_pages(4)[3 * PAGE_SIZE :]
        for page in (1, 2):
            with pytest.raises(InaccessibleMemory) as fault:
                source.page(page)
            assert fault.value.address == source.address + page * PAGE_SIZE


@pytest.mark.parametrize("shared", [True, False])
def test_a_file(shared: bool) -> None:
    with SourceBuffer.file(2, shared=shared) as source:
        assert source.address % PAGE_SIZE == 0
        assert source.page(1) == numbered_pages(2)[PAGE_SIZE:]
        guarded_write(source.address, b"writable")


def test_a_memfd() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with SourceBuffer.memfd(2, contents=b"x" * 2 * PAGE_SIZE) as source:
        assert source.page(1) == b"x" * PAGE_SIZE
        assert "kvmharness-source" in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) == before


def test_huge_pages_or_the_reason_there_are_none() -> None:
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not free.exists() or not int(free.read_text()):
        with pytest.raises(MissingCapability, match=r"nr_hugepages"):
            SourceBuffer.hugetlb(1)
        return
    with SourceBuffer.hugetlb(3) as source:
        assert source.address % HUGE_PAGE_SIZE == 0
        assert source.page(2) == numbered_pages(3)[2 * PAGE_SIZE :]


def test_an_unmapped_address_is_one() -> None:
    address = unmapped_address(4)
    assert address % PAGE_SIZE == 0
    for page in range(4):
        with pytest.raises(InaccessibleMemory):
            guarded_read(address + page * PAGE_SIZE, 1)


def test_closing_takes_the_memory_away_once() -> None:
    source = SourceBuffer.anonymous(1)
    address = source.address
    source.close()
    source.close()
    with pytest.raises(InaccessibleMemory):
        guarded_read(address, 1)


def test_a_hole_outside_is_refused_and_nothing_is_left() -> None:
    before = Path("/proc/self/maps").read_text().count("\n")
    for _ in range(20):
        with pytest.raises(ValueError, match="outside a mapping"):
            SourceBuffer.anonymous(2, hole=(2, 1))
    assert Path("/proc/self/maps").read_text().count("\n") - before < 10


@pytest.mark.parametrize("make", [SourceBuffer.anonymous, SourceBuffer.memfd])
def test_a_source_that_a_slot_has_is_left_to_the_vm(make: Callable[[], SourceBuffer]) -> None:
    vm = Vm(os.dup(0), PAGE_SIZE, 0)
    with make() as source:
        # As VmTry does around the ioctl, which this fd does not know.
        slots = vm.memslots
        slots.end(*slots.begin(0, 0, PAGE_SIZE, [source.mapping]), done=True)
        with pytest.raises(HarnessError, match="memslot 0"):
            source.close()
    assert not source.mapping.closed
    assert source.page(0) == numbered_pages(1)
    vm.close()
    assert source.mapping.closed
