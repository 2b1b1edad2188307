# SPDX-License-Identifier: MIT
"""madvise(2) and mlock(2) on a guest_memfd mapping (the file is in place: MMAP and INIT_SHARED)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import GuestMemfd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    Mapping,
    map_memory,
)
from kvmharness.launch.source import numbered_pages

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3)

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED = range(5)
FREE, REMOVE, DONTFORK, DOFORK = 8, 9, 10, 11
MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP = range(12, 18)
WIPEONFORK, KEEPONFORK, COLD, PAGEOUT = range(18, 22)
POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE = range(22, 26)

HARMLESS = {
    "NORMAL": NORMAL,
    "RANDOM": RANDOM,
    "SEQUENTIAL": SEQUENTIAL,
    "WILLNEED": WILLNEED,
    "DONTNEED": DONTNEED,
    "DONTFORK": DONTFORK,
    "DOFORK": DOFORK,
    "DONTDUMP": DONTDUMP,
    "DODUMP": DODUMP,
    "KEEPONFORK": KEEPONFORK,
    "COLD": COLD,
    "PAGEOUT": PAGEOUT,
    "POPULATE_READ": POPULATE_READ,
    "POPULATE_WRITE": POPULATE_WRITE,
    "DONTNEED_LOCKED": DONTNEED_LOCKED,
}


@pytest.mark.scenario("gmem.madvise.keeps_contents")
@pytest.mark.parametrize("advice", HARMLESS)
def test_advice_changes_no_contents(shared: GuestMemfd, advice: str) -> None:
    contents = numbered_pages(4)
    with shared.mmap() as mapping:
        mapping.write(0, contents)
        assert mapping.try_madvise(HARMLESS[advice]).errno_name == "ok"
        assert mapping.read() == contents


@pytest.mark.scenario("gmem.madvise.private_memory_only")
@pytest.mark.parametrize("advice", [FREE, WIPEONFORK], ids=["FREE", "WIPEONFORK"])
def test_advice_for_anonymous_memory_is_refused(shared: GuestMemfd, advice: int) -> None:
    contents = numbered_pages(4)
    with shared.mmap() as mapping:
        mapping.write(0, contents)
        assert mapping.try_madvise(advice).errno_name == "EINVAL"
        assert mapping.read() == contents


@pytest.mark.scenario("gmem.madvise.remove")
def test_remove_punches_a_hole(shared: GuestMemfd) -> None:
    """MADV_REMOVE is fallocate(PUNCH_HOLE) by another name (mm/madvise.c, madvise_remove)."""
    contents = numbered_pages(4)
    with shared.mmap() as mapping, shared.mmap() as other:
        mapping.write(0, contents)
        assert mapping.try_madvise(REMOVE, PAGE_SIZE, 2 * PAGE_SIZE).errno_name == "ok"
        left = contents[:PAGE_SIZE] + bytes(2 * PAGE_SIZE) + contents[3 * PAGE_SIZE :]
        assert mapping.read() == left
        assert other.read() == left


@pytest.mark.scenario("gmem.madvise.past_end")
@pytest.mark.parametrize("advice", [POPULATE_READ, POPULATE_WRITE])
def test_prefaulting_past_the_end_is_efault(shared: GuestMemfd, advice: int) -> None:
    with shared.mmap(2 * shared.size) as mapping:
        assert mapping.try_madvise(advice).errno_name == "EFAULT"
        assert mapping.try_madvise(advice, 0, shared.size).errno_name == "ok"


@pytest.mark.scenario("gmem.madvise.unaligned")
def test_unaligned_address_is_refused(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        assert mapping.try_madvise(DONTNEED, 1, PAGE_SIZE).errno_name == "EINVAL"


def huge_page_size() -> int:
    size = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not size.exists():
        pytest.skip("this kernel is built without transparent huge pages")
    return int(size.read_text())


def map_aligned(memfd: GuestMemfd, size: int) -> tuple[Mapping, Mapping]:
    """Map `memfd` at an address aligned to `size`: khugepaged looks at nothing else."""
    reserved = map_memory(2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
    offset = -reserved.address % size
    aligned = reserved.address + offset
    reserved.unmap(offset, size)
    mapping = map_memory(
        size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd.fileno(), 0, aligned
    )
    return mapping, reserved


@pytest.mark.scenario("gmem.madvise.collapse")
def test_collapse_is_refused(make_shared: Callable[[int], GuestMemfd]) -> None:
    """A huge folio would be mapped beyond what is shared (dd085fe9a8eb forbids it in mm).

    Pages are touched by reads, as the kernel's own test does: a dirty one would be refused anyway.
    """
    size = huge_page_size()
    mapping, reserved = map_aligned(make_shared(size), size)
    with reserved, mapping:
        assert mapping.read() == bytes(size)
        assert mapping.try_madvise(HUGEPAGE).errno_name == "ok"
        assert mapping.try_madvise(COLLAPSE).errno_name == "EINVAL"
        assert mapping.try_madvise(DONTNEED).errno_name == "ok"
        assert mapping.read() == bytes(size)


@pytest.mark.scenario("gmem.madvise.collapse_written")
def test_collapse_of_written_pages_is_refused_and_loses_nothing(
    make_shared: Callable[[int], GuestMemfd],
) -> None:
    size = huge_page_size()
    contents = numbered_pages(size // PAGE_SIZE)
    mapping, reserved = map_aligned(make_shared(size), size)
    with reserved, mapping:
        mapping.write(0, contents)
        assert mapping.try_madvise(NOHUGEPAGE).errno_name == "ok"
        assert mapping.try_madvise(COLLAPSE).errno_name == "EINVAL"
        assert mapping.try_madvise(HUGEPAGE).errno_name == "ok"
        assert not mapping.try_madvise(COLLAPSE).ok
        assert mapping.read() == contents


@pytest.mark.scenario("gmem.madvise.mlock")
def test_mlock_faults_in_and_punching_still_works(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        locked = mapping.try_mlock()
        if locked.errno_name == "ENOMEM":
            pytest.skip("RLIMIT_MEMLOCK is below four pages")
        assert locked.errno_name == "ok"
        mapping.fill(0, shared.size, 0x11)
        assert mapping.try_madvise(DONTNEED).errno_name == "EINVAL"  # locked pages stay mapped
        shared.punch_hole(0, PAGE_SIZE)
        assert mapping.read() == bytes(PAGE_SIZE) + b"\x11" * 3 * PAGE_SIZE


@pytest.mark.scenario("gmem.madvise.mlock_past_end")
def test_mlock_past_the_end_is_enomem(shared: GuestMemfd) -> None:
    with shared.mmap(2 * shared.size) as mapping:
        assert mapping.try_mlock().errno_name == "ENOMEM"
        assert mapping.read(0, shared.size) == bytes(shared.size)
