# SPDX-License-Identifier: MIT
"""fallocate(2): allocating, punching holes, and every mode and range that is refused.

Sources: kvm_gmem_fallocate, kvm_gmem_allocate, kvm_gmem_punch_hole; vfs_fallocate for what the
file system layer refuses before (sizes, negative offsets, EFBIG past s_maxbytes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from kvmharness import GuestMemfd, Vm
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.source import numbered_pages
from kvmharness.suite.promised import hold

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

KEEP = FALLOC_FL_KEEP_SIZE
PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
PAGES = 4
END = PAGES * PAGE_SIZE

UNALIGNED = [
    (0, 1),
    (0, PAGE_SIZE - 1),
    (0, PAGE_SIZE + 1),
    (1, 1),
    (1, PAGE_SIZE - 1),
    (1, PAGE_SIZE),
    (1, PAGE_SIZE + 1),
    (PAGE_SIZE - 1, PAGE_SIZE),
    (PAGE_SIZE, 1),
    (PAGE_SIZE, PAGE_SIZE - 1),
    (PAGE_SIZE, PAGE_SIZE + 1),
    (512, 512),
    (END - 1, PAGE_SIZE),
]


@pytest.mark.scenario("gmem.fallocate.every_mode")
def test_only_keep_size_with_or_without_punch_hole_is_known(memfd: GuestMemfd) -> None:
    """Every single mode bit and every pair of the defined ones; EOPNOTSUPP before any range check.

    Mode 0 would be posix_fallocate: it may extend the file, which a guest_memfd can't.
    """
    modes = {1 << bit for bit in range(31)} | set(range(0x100))
    for mode in sorted(modes - {KEEP, PUNCH}):
        result = memfd.try_.fallocate(mode, 0, PAGE_SIZE)
        hold(result, "gmem.fallocate.modes", 5, 6, mode=hex(mode))
    assert memfd.try_.fallocate(KEEP, 0, PAGE_SIZE).ok
    assert memfd.try_.fallocate(PUNCH, 0, PAGE_SIZE).ok


def wrong_outcomes(
    memfd: GuestMemfd, mode: int, ranges: Iterable[tuple[int, int]], wanted: str
) -> dict[tuple[int, int], str]:
    """Return what `mode` answered for the ranges (offset, size in bytes) where not `wanted`."""
    outcomes = {
        (offset, size): memfd.try_.fallocate(mode, offset, size).errno_name
        for offset, size in ranges
    }
    return {where: outcome for where, outcome in outcomes.items() if outcome != wanted}


def in_pages(*ranges: tuple[int, int]) -> list[tuple[int, int]]:
    return [(first * PAGE_SIZE, pages * PAGE_SIZE) for first, pages in ranges]


@pytest.mark.scenario("gmem.fallocate.allocate")
def test_allocation_inside_succeeds_and_again(memfd: GuestMemfd) -> None:
    ranges = in_pages((0, PAGES), (0, 1), (PAGES - 1, 1), (1, 2))
    for _ in range(2):
        assert not wrong_outcomes(memfd, KEEP, ranges, "ok")


@pytest.mark.scenario("gmem.fallocate.allocate_past_end")
def test_allocation_past_the_end_is_refused(memfd: GuestMemfd) -> None:
    ranges = in_pages((PAGES, 1), (PAGES + 1, 1), (0, PAGES + 1), (PAGES - 1, 2), (100, 100))
    assert not wrong_outcomes(memfd, KEEP, ranges, "EINVAL")


@pytest.mark.scenario("gmem.fallocate.unaligned")
@pytest.mark.parametrize("mode", [KEEP, PUNCH], ids=["allocate", "punch"])
def test_unaligned_ranges_are_refused(memfd: GuestMemfd, mode: int) -> None:
    assert not wrong_outcomes(memfd, mode, UNALIGNED, "EINVAL")


@pytest.mark.scenario("gmem.fallocate.empty_or_negative")
@pytest.mark.parametrize("mode", [KEEP, PUNCH], ids=["allocate", "punch"])
def test_empty_and_negative_ranges_are_refused(memfd: GuestMemfd, mode: int) -> None:
    negative = [(-PAGE_SIZE, PAGE_SIZE), (0, -PAGE_SIZE), (-(2**63), PAGE_SIZE)]
    assert not wrong_outcomes(memfd, mode, [(0, 0), (END, 0), *negative], "EINVAL")


@pytest.mark.scenario("gmem.fallocate.too_large")
@pytest.mark.parametrize("mode", [KEEP, PUNCH], ids=["allocate", "punch"])
def test_a_range_past_the_largest_offset_is_efbig(memfd: GuestMemfd, mode: int) -> None:
    assert not wrong_outcomes(memfd, mode, [(2**63 - PAGE_SIZE, PAGE_SIZE)], "EFBIG")


@pytest.mark.scenario("gmem.punch.past_end")
def test_punching_past_the_end_succeeds(memfd: GuestMemfd) -> None:
    """There is nothing there to keep; allocation is what i_size limits."""
    ranges = in_pages(
        (PAGES, 1), (PAGES + 1, 1), (PAGES - 1, 2), (0, 1000), (0, 2**51 - 1), (2**50, 1)
    )
    assert not wrong_outcomes(memfd, PUNCH, ranges, "ok")


@pytest.mark.scenario("gmem.punch.and_restore")
def test_a_hole_can_be_allocated_again(memfd: GuestMemfd) -> None:
    memfd.allocate(0, END)
    memfd.punch_hole(PAGE_SIZE, PAGE_SIZE)
    memfd.allocate(PAGE_SIZE, PAGE_SIZE)


@pytest.mark.scenario("gmem.punch.never_allocated")
def test_punching_what_was_never_allocated_succeeds(memfd: GuestMemfd) -> None:
    for _ in range(2):
        memfd.punch_hole(0, END)


@pytest.mark.scenario("gmem.fallocate.keeps_contents")
def test_allocation_keeps_what_is_there(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.write(PAGE_SIZE, b"kept")
        shared.allocate(0, END)
        assert mapping.read() == bytes(PAGE_SIZE) + b"kept".ljust(3 * PAGE_SIZE, b"\0")


@pytest.mark.scenario("gmem.punch.every_range")
@pytest.mark.parametrize(
    ("first", "pages"),
    [(first, pages) for first in range(PAGES) for pages in range(1, PAGES + 1 - first)],
)
def test_the_host_reads_zeros_in_the_hole_and_its_data_around_it(
    shared: GuestMemfd, first: int, pages: int
) -> None:
    contents = numbered_pages(PAGES)
    with shared.mmap() as mapping:
        mapping.write(0, contents)
        shared.punch_hole(first * PAGE_SIZE, pages * PAGE_SIZE)
        hole = slice(first * PAGE_SIZE, (first + pages) * PAGE_SIZE)
        wanted = bytearray(contents)
        wanted[hole] = bytes(pages * PAGE_SIZE)
        assert mapping.read() == wanted


@pytest.mark.scenario("gmem.punch.refused_keeps_contents")
def test_a_refused_punch_loses_nothing(shared: GuestMemfd) -> None:
    contents = numbered_pages(PAGES)
    with shared.mmap() as mapping:
        mapping.write(0, contents)
        for offset, size in UNALIGNED:
            assert not shared.try_.punch_hole(offset, size).ok
        assert mapping.read() == contents


@pytest.mark.scenario("gmem.punch.zeros_without_mapping")
def test_a_page_written_before_is_zero_in_a_later_mapping(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.fill(0, END, 0xEE)
    shared.punch_hole(PAGE_SIZE, 2 * PAGE_SIZE)
    shared.allocate(PAGE_SIZE, 2 * PAGE_SIZE)
    with shared.mmap() as mapping:
        assert mapping.read(PAGE_SIZE, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
        assert mapping.read(0, PAGE_SIZE) == b"\xee" * PAGE_SIZE


@pytest.mark.scenario("gmem.punch.while_mapped_twice")
def test_every_mapping_sees_the_hole(shared: GuestMemfd) -> None:
    with shared.mmap() as one, shared.mmap() as two:
        one.fill(0, END, 1)
        assert two.read(0, 1) == b"\1"
        shared.punch_hole(0, END)
        assert one.read() == two.read() == bytes(END)
        two.write(0, b"new")
        assert one.read(0, 3) == b"new"


@pytest.mark.scenario("gmem.punch.across_bindings")
@pytest.mark.parametrize("bound", ["first half", "second half", "both"])
def test_punching_across_bindings(typed_vm: Vm, memfd: GuestMemfd, bound: str) -> None:
    """The invalidation walks the bindings of the range: none, one, several, split in the middle."""
    half = END // 2
    flags = lib.KVM_MEM_GUEST_MEMFD
    if bound != "second half":
        typed_vm.set_user_memory_region2(0, 0, half, 0, flags, memfd, 0)
    if bound != "first half":
        typed_vm.set_user_memory_region2(1, 1 << 32, half, 0, flags, memfd, half)
    for offset, size in ((0, END), (PAGE_SIZE, half), (0, PAGE_SIZE), (END - PAGE_SIZE, PAGE_SIZE)):
        memfd.allocate(offset, size)
        memfd.punch_hole(offset, size)


@pytest.mark.scenario("gmem.fallocate.large")
def test_sixteen_mebibytes_allocated_and_given_back(
    make_shared: Callable[[int], GuestMemfd],
) -> None:
    size = 16 << 20
    memfd = make_shared(size)
    memfd.allocate(0, size)
    with memfd.mmap() as mapping:
        assert mapping.read() == bytes(size)
        mapping.fill(0, size, 0xC3)
        memfd.punch_hole(0, size)
        assert mapping.read() == bytes(size)
