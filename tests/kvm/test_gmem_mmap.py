# SPDX-License-Identifier: MIT
"""mmap(2) of a guest_memfd: who may map it, and how (kvm_gmem_mmap)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import pytest

from kvmharness import GuestMemfd, InaccessibleMemory, KvmError, Vm
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import (
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

MAP_SHARED_VALIDATE = 0x3
MAP_SYNC = 0x80000
MAP_POPULATE = 0x8000
PROT_EXEC = mmap.PROT_EXEC


def mappable(memfd: GuestMemfd) -> bool:
    return bool(memfd.flags & lib.GUEST_MEMFD_FLAG_MMAP)


@pytest.mark.scenario("gmem.mmap.flag_decides")
def test_only_the_mmap_flag_makes_it_mappable(memfd: GuestMemfd) -> None:
    """ENODEV, as for any file without mmap, for one page and for all of it."""
    for size in (PAGE_SIZE, memfd.size):
        result = memfd.try_.mmap(size)
        if result.value:
            result.value.close()
        assert result.errno_name == ("ok" if mappable(memfd) else "ENODEV")


@pytest.mark.scenario("gmem.mmap.copy_on_write")
@pytest.mark.parametrize("prot", [PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE])
def test_copy_on_write_is_refused(memfd: GuestMemfd, prot: int) -> None:
    wanted = "EINVAL" if mappable(memfd) else "ENODEV"
    assert memfd.try_.mmap(prot=prot, flags=MAP_PRIVATE).errno_name == wanted


@pytest.mark.scenario("gmem.mmap.exec")
@pytest.mark.parametrize("prot", [PROT_EXEC, PROT_READ | PROT_EXEC, 7])
def test_executable_is_refused(shared: GuestMemfd, prot: int) -> None:
    """guest_memfd's own mount is noexec (6.18, when it became mappable, and later)."""
    assert shared.try_.mmap(prot=prot).errno_name == "EPERM"


@pytest.mark.scenario("gmem.mmap.exec_later")
def test_a_mapping_can_not_become_executable(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping, pytest.raises(KvmError) as refused:
        mapping.protect(PROT_READ | PROT_EXEC)
    assert refused.value.result.errno_name == "EACCES"


@pytest.mark.scenario("gmem.mmap.offset_unaligned")
@pytest.mark.parametrize("offset", [1, PAGE_SIZE - 1, PAGE_SIZE + 512])
def test_unaligned_offset_is_refused(shared: GuestMemfd, offset: int) -> None:
    assert shared.try_.mmap(PAGE_SIZE, offset).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.mmap.size_zero")
def test_size_zero_is_refused(shared: GuestMemfd) -> None:
    assert shared.try_.mmap(0).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.mmap.sync")
def test_dax_and_huge_page_flags_are_refused(shared: GuestMemfd) -> None:
    flags = MAP_SHARED_VALIDATE | MAP_SYNC
    assert shared.try_.mmap(flags=flags).errno_name == "EOPNOTSUPP"
    assert shared.try_.mmap(flags=MAP_SHARED | MAP_HUGETLB).errno_name == "EINVAL"


@pytest.mark.scenario("gmem.mmap.past_end_touched")
@pytest.mark.parametrize(("first", "pages"), [(4, 1), (100, 1), (3, 4), (0, 64)])
def test_past_the_end_maps_and_only_the_inside_can_be_touched(
    shared: GuestMemfd, first: int, pages: int
) -> None:
    """mmap looks at no size; the fault does (kvm_gmem_fault_user_mapping, i_size)."""
    inside = max(0, 4 - first)
    with shared.mmap(pages * PAGE_SIZE, first * PAGE_SIZE) as mapping:
        if inside:
            mapping.fill(0, inside * PAGE_SIZE, 0x5A)
        for page in {inside, pages - 1}:
            with pytest.raises(InaccessibleMemory) as fault:
                mapping.read(page * PAGE_SIZE, 1)
            assert fault.value.signal_name == "SIGBUS"
            assert fault.value.address == mapping.address + page * PAGE_SIZE
        assert mapping.read(0, inside * PAGE_SIZE) == b"\x5a" * inside * PAGE_SIZE


@pytest.mark.scenario("gmem.mmap.last_offset")
def test_an_offset_that_overflows_is_refused(shared: GuestMemfd) -> None:
    result = shared.try_.mmap(2 * PAGE_SIZE, 2**63 - PAGE_SIZE)
    assert result.errno_name == "EOVERFLOW"


@pytest.mark.scenario("gmem.mmap.shared_views")
def test_mappings_show_the_same_memory(shared: GuestMemfd) -> None:
    with shared.mmap() as whole, shared.mmap(PAGE_SIZE, 2 * PAGE_SIZE) as third:
        whole.write(2 * PAGE_SIZE + 5, b"seen")
        assert third.read(5, 4) == b"seen"
        third.write(PAGE_SIZE - 2, b"ok")
        assert whole.read(3 * PAGE_SIZE - 2, 2) == b"ok"


@pytest.mark.scenario("gmem.mmap.starts_zeroed")
def test_memory_starts_as_zeros(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        assert mapping.read() == bytes(shared.size)


@pytest.mark.scenario("gmem.mmap.every_byte")
def test_every_byte_can_be_written_punched_and_written_again(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.fill(0, shared.size, 0xAA)
        assert mapping.read() == b"\xaa" * shared.size
        shared.punch_hole(0, PAGE_SIZE)
        assert mapping.read() == bytes(PAGE_SIZE) + b"\xaa" * (shared.size - PAGE_SIZE)
        mapping.fill(0, PAGE_SIZE, 0xAA)
        assert mapping.read() == b"\xaa" * shared.size


@pytest.mark.scenario("gmem.mmap.populate")
def test_populate_allocates_at_once(shared: GuestMemfd) -> None:
    with shared.mmap(flags=MAP_SHARED | MAP_POPULATE) as mapping:
        assert mapping.read() == bytes(shared.size)


@pytest.mark.scenario("gmem.mmap.read_only")
def test_a_read_only_mapping_reads_and_does_not_write(shared: GuestMemfd) -> None:
    with shared.mmap() as writable, shared.mmap(prot=PROT_READ) as mapping:
        writable.write(0, b"text")
        assert mapping.read(0, 4) == b"text"
        with pytest.raises(InaccessibleMemory) as fault:
            mapping.write(0, b"x")
        assert fault.value.signal_name == "SIGSEGV"
        mapping.protect(PROT_READ | PROT_WRITE)
        mapping.write(0, b"more")
        assert writable.read(0, 4) == b"more"


@pytest.mark.scenario("gmem.mmap.contents_stay")
def test_contents_stay_without_a_mapping(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.write(PAGE_SIZE, b"kept")
    with shared.mmap() as mapping:
        assert mapping.read(PAGE_SIZE, 4) == b"kept"


@pytest.mark.scenario("gmem.mmap.bound_or_not")
def test_binding_makes_no_difference_to_the_host(vm: Vm, shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.write(0, b"before")
        flags = lib.KVM_MEM_GUEST_MEMFD
        vm.set_user_memory_region2(0, 0, shared.size, mapping.address, flags, shared)
        assert mapping.read(0, 6) == b"before"
        mapping.write(0, b"during")
        vm.set_user_memory_region2(0, 0, 0, 0, flags)
        assert mapping.read(0, 6) == b"during"


@pytest.mark.scenario("gmem.mmap.fork")
def test_a_forked_child_shares_the_memory(shared: GuestMemfd) -> None:
    with shared.mmap() as mapping:
        mapping.write(0, b"parent")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if mapping.read(0, 6) == b"parent":
                    mapping.write(0, b"child!")
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mapping.read(0, 6) == b"child!"


@pytest.mark.scenario("gmem.mmap.sparse")
def test_a_terabyte_can_be_mapped_and_touched_here_and_there(
    make_shared: Callable[[int], GuestMemfd],
) -> None:
    size = 1 << 40
    with make_shared(size).mmap() as mapping:
        for offset in (0, size // 2, size - PAGE_SIZE):
            mapping.write(offset, b"here")
        for offset in (0, size // 2, size - PAGE_SIZE):
            assert mapping.read(offset, 5) == b"here\0"
        assert mapping.read(size // 4, 8) == bytes(8)
