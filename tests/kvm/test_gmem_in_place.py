# SPDX-License-Identifier: MIT
"""Memory in place: host and guest at work on the same guest_memfd pages, without a copy."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

import pytest

from kvmharness import InaccessibleMemory, Machine, VmBuilder
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.source import numbered_pages
from kvmharness.machine.payload import (
    TOUCH_WRITE,
    page_checksum,
    pattern_page,
    touch_mark,
    touch_table,
)

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3)

GMEM = lib.KVM_MEM_GUEST_MEMFD
MMAP = lib.GUEST_MEMFD_FLAG_MMAP
DATA = 0x10_0000  # gpa of what the guest looks at, in the first slot of the `in_place` builder
FAR = 1 << 32  # gpa of a second slot, where the kernel's own test has it
MODES = ["long-cpl0", "long-cpl3"]


def checksums(contents: bytes) -> list[int]:
    return [
        page_checksum(contents[at : at + PAGE_SIZE]) for at in range(0, len(contents), PAGE_SIZE)
    ]


def guest_checksums(machine: Machine, gpa: int, pages: int, mode: str = "long-cpl3") -> list[int]:
    machine.enter("checksum", mode, start=gpa, pages=pages)
    run = machine.run()
    assert run.status == 0, run.exit
    return run.words


def guest_pattern(
    machine: Machine, gpa: int, pages: int, seed: int, mode: str = "long-cpl3"
) -> None:
    machine.enter("pattern", mode, start=gpa, pages=pages, seed=seed)
    run = machine.run()
    assert run.status == 0, run.exit
    assert run.words == [pages]


def pattern(seed: int, gpa: int, pages: int) -> bytes:
    return b"".join(pattern_page(seed, gpa + page * PAGE_SIZE) for page in range(pages))


@pytest.fixture
def machine(in_place: VmBuilder) -> Machine:
    """A machine with 2 MiB in place at gpa 0 and one vCPU, closed by the test."""
    return in_place.payload("hello").build()


# ------------------------------------------------------------------ one slot


@pytest.mark.scenario("gmem.inplace.code")
@pytest.mark.parametrize("mode", MODES)
def test_code_written_in_place_runs(in_place: VmBuilder, mode: str) -> None:
    with in_place.payload("hello", mode).build() as machine:
        run = machine.run()
        assert run.console == "hello from guest_memfd\n"
        assert run.status == 0


@pytest.mark.scenario("gmem.inplace.host_writes")
@pytest.mark.parametrize("mode", MODES)
def test_the_guest_sees_what_the_host_wrote(machine: Machine, mode: str) -> None:
    contents = numbered_pages(16)
    with machine:
        machine.write(DATA, contents)
        assert guest_checksums(machine, DATA, 16, mode) == checksums(contents)


@pytest.mark.scenario("gmem.inplace.untouched")
@pytest.mark.parametrize("mode", MODES)
def test_pages_nobody_wrote_are_zeros(machine: Machine, mode: str) -> None:
    with machine:
        assert guest_checksums(machine, DATA, 16, mode) == checksums(bytes(16 * PAGE_SIZE))


@pytest.mark.scenario("gmem.inplace.guest_writes")
@pytest.mark.parametrize("mode", MODES)
def test_the_host_sees_what_the_guest_wrote(machine: Machine, mode: str) -> None:
    with machine:
        guest_pattern(machine, DATA, 16, seed=0x1234, mode=mode)
        assert machine.read(DATA, 16 * PAGE_SIZE) == pattern(0x1234, DATA, 16)
        assert machine.read(DATA + 16 * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        with memfd.mmap(PAGE_SIZE, DATA + PAGE_SIZE) as later:
            assert later.read() == pattern_page(0x1234, DATA + PAGE_SIZE)


@pytest.mark.scenario("gmem.inplace.punched")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("first", "pages"), [(0, 1), (3, 2), (7, 1), (0, 8)])
def test_the_guest_sees_zeros_in_a_hole(
    machine: Machine, mode: str, first: int, pages: int
) -> None:
    """Pages the guest has had mapped: the punch has to take them from it."""
    contents = numbered_pages(8)
    with machine:
        machine.write(DATA, contents)
        assert guest_checksums(machine, DATA, 8, mode) == checksums(contents)
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        memfd.punch_hole(DATA + first * PAGE_SIZE, pages * PAGE_SIZE)
        left = bytearray(contents)
        left[first * PAGE_SIZE : (first + pages) * PAGE_SIZE] = bytes(pages * PAGE_SIZE)
        assert guest_checksums(machine, DATA, 8, mode) == checksums(bytes(left))
        assert machine.read(DATA, 8 * PAGE_SIZE) == left


@pytest.mark.scenario("gmem.inplace.punch_refused")
def test_a_refused_punch_takes_nothing_from_the_guest(machine: Machine) -> None:
    contents = numbered_pages(4)
    with machine:
        machine.write(DATA, contents)
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        assert memfd.try_.punch_hole(DATA, PAGE_SIZE - 1).errno_name == "EINVAL"
        assert memfd.try_.punch_hole(DATA + 1, PAGE_SIZE).errno_name == "EINVAL"
        assert guest_checksums(machine, DATA, 4) == checksums(contents)


@pytest.mark.scenario("gmem.inplace.guest_touches_hole")
@pytest.mark.parametrize("mode", MODES)
def test_the_guest_reads_and_writes_a_hole(machine: Machine, mode: str) -> None:
    pages = [DATA + page * PAGE_SIZE for page in range(6)]
    with machine:
        guest_pattern(machine, DATA, 6, seed=9, mode=mode)
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        memfd.punch_hole(DATA, 4 * PAGE_SIZE)
        table = [(gpa, TOUCH_WRITE if index % 2 else 0) for index, gpa in enumerate(pages)]
        machine.write(0x2_0000, touch_table(table))
        machine.enter("touch", mode, table=0x2_0000, count=len(table))
        run = machine.run()
        assert run.status == 0
        words = {gpa: int.from_bytes(pattern_page(9, gpa)[:8], "little") for gpa in pages[4:]}
        assert run.words == [word for gpa in pages for word in (gpa, words.get(gpa, 0))]
        for index, gpa in enumerate(pages):
            now = touch_mark(gpa) if index % 2 else words.get(gpa, 0)
            assert machine.read(gpa, 8) == now.to_bytes(8, "little")
            if index < 4:
                assert machine.read(gpa + 8, PAGE_SIZE - 8) == bytes(PAGE_SIZE - 8)


@pytest.mark.scenario("gmem.inplace.back_and_forth")
def test_each_side_sees_the_others_last_word(machine: Machine) -> None:
    with machine:
        for turn in range(20):
            guest_pattern(machine, DATA, 2, seed=turn)
            assert machine.read(DATA, 2 * PAGE_SIZE) == pattern(turn, DATA, 2)
            contents = bytes([turn + 1]) * 2 * PAGE_SIZE
            machine.write(DATA, contents)
            assert guest_checksums(machine, DATA, 2) == checksums(contents)


@pytest.mark.scenario("gmem.inplace.filled_by_syscall")
def test_a_file_read_straight_into_guest_memory(machine: Machine) -> None:
    contents = numbered_pages(8)
    with machine, tempfile.TemporaryFile() as file:
        file.write(contents)
        file.flush()
        view = machine.slots[0].mapping.view()[DATA : DATA + len(contents)]
        assert os.preadv(file.fileno(), [view], 0) == len(contents)
        view.release()
        assert guest_checksums(machine, DATA, 8) == checksums(contents)


@pytest.mark.scenario("gmem.inplace.remapped_by_host")
def test_the_hosts_mapping_can_go_and_come(machine: Machine) -> None:
    """MADV_DONTNEED drops the host's page tables, not the memory, and not the guest's view."""
    contents = numbered_pages(4)
    with machine:
        machine.write(DATA, contents)
        assert machine.slots[0].mapping.try_madvise(4).ok  # MADV_DONTNEED
        assert guest_checksums(machine, DATA, 4) == checksums(contents)
        assert machine.read(DATA, 4 * PAGE_SIZE) == contents


# ------------------------------------------------------------------ more slots, more files


@pytest.fixture
def with_far_slot(
    vm_builder: Callable[..., VmBuilder],
) -> Callable[[int], Machine]:
    """A function giving a machine with a guest_memfd slot of `pages` pages at 4 GiB."""

    def build(pages: int) -> Machine:
        builder = vm_builder().memory(0, 1 << 20, "anonymous")
        return builder.guest_memfd(FAR, pages * PAGE_SIZE).payload("hello").build()

    return build


@pytest.mark.scenario("gmem.inplace.above_4g")
@pytest.mark.parametrize("mode", MODES)
def test_a_page_at_4_gib_filled_checked_and_overwritten(
    with_far_slot: Callable[[int], Machine], mode: str
) -> None:
    with with_far_slot(1) as machine:
        machine.write(FAR, b"\xaa" * PAGE_SIZE)
        assert guest_checksums(machine, FAR, 1, mode) == checksums(b"\xaa" * PAGE_SIZE)
        guest_pattern(machine, FAR, 1, seed=0xFF, mode=mode)
        assert machine.read(FAR, PAGE_SIZE) == pattern_page(0xFF, FAR)


@pytest.mark.scenario("gmem.inplace.slots_of_one_file")
@pytest.mark.parametrize("mode", MODES)
def test_slots_show_the_pages_they_were_bound_to(
    with_far_slot: Callable[[int], Machine], mode: str
) -> None:
    """Pages of one file in another order, with gaps between: the offsets must be right."""
    order = [5, 0, 3, 7, 2]
    with with_far_slot(1) as machine:
        memfd = machine.create_guest_memfd(8 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_INIT_SHARED | MMAP)
        machine.own(memfd)
        mapping = memfd.mmap()
        machine.own(mapping)
        contents = numbered_pages(8)
        mapping.write(0, contents)
        base = 0x4000_0000
        for index, page in enumerate(order):
            machine.set_user_memory_region2(
                10 + index,
                base + 2 * index * PAGE_SIZE,
                PAGE_SIZE,
                mapping.address + page * PAGE_SIZE,
                GMEM,
                memfd,
                page * PAGE_SIZE,
            )
        for index, page in enumerate(order):
            gpa = base + 2 * index * PAGE_SIZE
            page_contents = contents[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            assert guest_checksums(machine, gpa, 1, mode) == checksums(page_contents)
            guest_pattern(machine, gpa, 1, seed=page, mode=mode)
            assert mapping.read(page * PAGE_SIZE, PAGE_SIZE) == pattern_page(page, gpa)
        for page in (1, 4, 6):  # bound nowhere
            kept = contents[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            assert mapping.read(page * PAGE_SIZE, PAGE_SIZE) == kept
        memfd.punch_hole(0, 8 * PAGE_SIZE)  # one call over all slots
        for index in range(len(order)):
            gpa = base + 2 * index * PAGE_SIZE
            assert guest_checksums(machine, gpa, 1, mode) == checksums(bytes(PAGE_SIZE))


@pytest.mark.scenario("gmem.inplace.adjacent_slots")
def test_a_range_over_two_adjacent_slots(with_far_slot: Callable[[int], Machine]) -> None:
    with with_far_slot(1) as machine:
        first = machine.create_guest_memfd(2 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_INIT_SHARED | MMAP)
        second = machine.create_guest_memfd(2 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_INIT_SHARED | MMAP)
        one, two = first.mmap(), second.mmap()
        machine.own(first, second, one, two)
        base = 0x4000_0000
        size = 2 * PAGE_SIZE
        machine.set_user_memory_region2(10, base, size, one.address, GMEM, first)
        machine.set_user_memory_region2(11, base + size, size, two.address, GMEM, second)
        guest_pattern(machine, base, 4, seed=3)
        assert one.read() + two.read() == pattern(3, base, 4)
        second.punch_hole(0, PAGE_SIZE)
        left = one.read() + bytes(PAGE_SIZE) + pattern_page(3, base + 3 * PAGE_SIZE)
        assert guest_checksums(machine, base, 4) == checksums(left)


@pytest.mark.scenario("gmem.inplace.moved_by_rebinding")
def test_contents_follow_the_file_to_another_gpa(with_far_slot: Callable[[int], Machine]) -> None:
    with with_far_slot(4) as machine:
        slot = machine.slots[1]
        guest_pattern(machine, FAR, 4, seed=8)
        contents = pattern(8, FAR, 4)
        machine.set_user_memory_region2(slot.number, 0, 0, 0)
        there = 0x5000_0000
        machine.set_user_memory_region2(
            slot.number, there, slot.size, slot.mapping.address, GMEM, slot.guest_memfd
        )
        assert guest_checksums(machine, there, 4) == checksums(contents)


@pytest.mark.scenario("gmem.inplace.far_offset")
def test_a_window_into_a_terabyte(with_far_slot: Callable[[int], Machine]) -> None:
    size, offset = 1 << 40, 1 << 39
    with with_far_slot(1) as machine:
        memfd = machine.create_guest_memfd(size, lib.GUEST_MEMFD_FLAG_INIT_SHARED | MMAP)
        window = memfd.mmap(4 * PAGE_SIZE, offset)
        machine.own(memfd, window)
        base = 0x4000_0000
        machine.set_user_memory_region2(
            10, base, 4 * PAGE_SIZE, window.address, GMEM, memfd, offset
        )
        guest_pattern(machine, base, 4, seed=5)
        assert window.read() == pattern(5, base, 4)
        with memfd.mmap(PAGE_SIZE, 0) as start:
            assert start.read() == bytes(PAGE_SIZE)


@pytest.mark.scenario("gmem.inplace.guest_only")
@pytest.mark.parametrize("userspace_addr", ["mapping", "0"])
def test_memory_that_is_the_guests_alone(
    with_far_slot: Callable[[int], Machine], userspace_addr: str
) -> None:
    """MMAP without INIT_SHARED on a default VM: the guest works on it, the host gets SIGBUS.

    At CPL3 alone: an emulated access (CPL0 on some hosts) goes through userspace_addr.
    """
    with with_far_slot(1) as machine:
        memfd = machine.create_guest_memfd(4 * PAGE_SIZE, MMAP)
        mapping = memfd.mmap()
        machine.own(memfd, mapping)
        base = 0x4000_0000
        address = mapping.address if userspace_addr == "mapping" else 0
        machine.set_user_memory_region2(10, base, memfd.size, address, GMEM, memfd)
        assert guest_checksums(machine, base, 4) == checksums(bytes(4 * PAGE_SIZE))
        guest_pattern(machine, base, 4, seed=11)
        assert guest_checksums(machine, base, 4) == checksums(pattern(11, base, 4))
        with pytest.raises(InaccessibleMemory) as fault:
            mapping.read(0, 1)
        assert fault.value.signal_name == "SIGBUS"
        memfd.punch_hole(PAGE_SIZE, PAGE_SIZE)
        left = bytearray(pattern(11, base, 4))
        left[PAGE_SIZE : 2 * PAGE_SIZE] = bytes(PAGE_SIZE)
        assert guest_checksums(machine, base, 4) == checksums(bytes(left))


@pytest.mark.scenario("gmem.inplace.not_mappable")
def test_shared_accesses_to_an_unmappable_one_go_to_userspace_addr(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    """Without MMAP the file is the slot's private half, which a default VM never uses."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    with builder.guest_memfd(FAR, 4 * PAGE_SIZE, flags=0).payload("hello").build() as machine:
        machine.write(FAR, numbered_pages(4))
        assert guest_checksums(machine, FAR, 4) == checksums(numbered_pages(4))
        memfd = machine.slots[1].guest_memfd
        assert memfd is not None
        memfd.punch_hole(0, memfd.size)
        assert guest_checksums(machine, FAR, 4) == checksums(numbered_pages(4))


@pytest.mark.scenario("gmem.inplace.two_vms")
def test_two_vms_do_not_see_each_others_memory(in_place: VmBuilder) -> None:
    builder = in_place.payload("hello")
    with builder.build() as one, builder.build() as two:
        guest_pattern(one, DATA, 2, seed=1)
        guest_pattern(two, DATA, 2, seed=2)
        assert one.read(DATA, 2 * PAGE_SIZE) == pattern(1, DATA, 2)
        assert two.read(DATA, 2 * PAGE_SIZE) == pattern(2, DATA, 2)


# ------------------------------------------------------------------ several vCPUs, running guests


@pytest.mark.scenario("gmem.inplace.two_vcpus")
@pytest.mark.parametrize("mode", MODES)
def test_two_vcpus_at_once_write_and_check_each_other(in_place: VmBuilder, mode: str) -> None:
    pages = 32
    halves = [DATA, DATA + pages * PAGE_SIZE]
    with in_place.vcpus(2).payload("hello").build() as machine:
        for vcpu, gpa in enumerate(halves):
            machine.enter("pattern", mode, vcpu=vcpu, start=gpa, pages=pages, seed=vcpu)
        assert [run.status for run in machine.run_all()] == [0, 0]
        wrote = [pattern(vcpu, gpa, pages) for vcpu, gpa in enumerate(halves)]
        assert machine.read(DATA, 2 * pages * PAGE_SIZE) == b"".join(wrote)
        for vcpu, gpa in enumerate(reversed(halves)):
            machine.enter("checksum", mode, vcpu=vcpu, start=gpa, pages=pages)
        runs = machine.run_all()
        assert [run.words for run in runs] == [checksums(wrote[1]), checksums(wrote[0])]


@pytest.mark.scenario("gmem.inplace.two_vcpus_first_touch")
def test_two_vcpus_fault_the_same_pages_in(in_place: VmBuilder) -> None:
    """Both take the first fault on each page: one allocates, both must see the same zeros."""
    with in_place.vcpus(2).payload("hello").build() as machine:
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        for _ in range(10):
            memfd.punch_hole(DATA, 64 * PAGE_SIZE)
            for vcpu in range(2):
                machine.enter("checksum", vcpu=vcpu, start=DATA, pages=64)
            for run in machine.run_all():
                assert run.words == checksums(bytes(64 * PAGE_SIZE))


def counter(machine: Machine, gpa: int) -> int:
    return int.from_bytes(machine.read(gpa, 8), "little")


def wait_for(what: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.scenario("gmem.inplace.running")
def test_the_host_watches_two_running_vcpus(in_place: VmBuilder) -> None:
    builder = in_place.payload("ticker", vcpu=0, counter=DATA)
    with builder.payload("ticker", vcpu=1, counter=DATA + PAGE_SIZE).build() as machine:
        threads = [machine.start(vcpu, timeout=20) for vcpu in range(2)]
        for gpa in (DATA, DATA + PAGE_SIZE):
            seen = counter(machine, gpa)
            assert wait_for(lambda gpa=gpa, seen=seen: counter(machine, gpa) > seen)  # type: ignore[misc]
        for thread in threads:
            assert thread.running
            assert thread.stop().status is None


@pytest.mark.scenario("gmem.inplace.punch_while_running")
def test_punching_under_a_running_guest_starts_its_page_again(in_place: VmBuilder) -> None:
    """The vCPU has the page mapped and writes to it: each punch has to make it fault anew."""
    high = 1 << 62
    with in_place.payload("ticker", counter=DATA).build() as machine:
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        thread = machine.start(timeout=20)
        assert wait_for(lambda: counter(machine, DATA) > 0)
        for _ in range(20):
            machine.write(DATA + PAGE_SIZE - 8, high.to_bytes(8, "little"))
            memfd.punch_hole(DATA, PAGE_SIZE)
            assert counter(machine, DATA + PAGE_SIZE - 8) == 0  # the new page, not the old
            assert wait_for(lambda: counter(machine, DATA) > 0)
        assert thread.stop().status is None


@pytest.mark.scenario("gmem.inplace.fallocate_while_running")
def test_allocating_under_a_running_guest_changes_nothing(in_place: VmBuilder) -> None:
    with in_place.payload("ticker", counter=DATA).build() as machine:
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        thread = machine.start(timeout=20)
        assert wait_for(lambda: counter(machine, DATA) > 0)
        for _ in range(20):
            seen = counter(machine, DATA)
            memfd.allocate(0, memfd.size)
            assert counter(machine, DATA) >= seen
        thread.stop()


@pytest.mark.scenario("gmem.inplace.shared_with_a_file")
def test_a_guest_memfd_beside_memory_of_other_kinds(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    """The same guest reads and writes anonymous memory, a memfd and a guest_memfd."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(0x4000_0000, 1 << 20, "memfd")
    with builder.guest_memfd(FAR, 1 << 20).payload("hello").build() as machine:
        for seed, gpa in enumerate((0x8_0000, 0x4000_0000, FAR)):
            guest_pattern(machine, gpa, 8, seed)
            assert machine.read(gpa, 8 * PAGE_SIZE) == pattern(seed, gpa, 8)


def test_helpers_agree_on_a_page() -> None:
    """The suite's own arithmetic: a wrong checksum of zeros would hide every other failure."""
    assert checksums(bytes(2 * PAGE_SIZE)) == [page_checksum(bytes(PAGE_SIZE))] * 2
    assert checksums(numbered_pages(2))[0] != checksums(numbered_pages(2))[1]
