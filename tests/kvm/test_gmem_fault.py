# SPDX-License-Identifier: MIT
"""Touching pages the host may not have: SIGBUS for loads and stores, EFAULT inside the kernel."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Iterator

import pytest

from kvmharness import GuestMemfd, InaccessibleMemory, Vm
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE, Mapping, guarded_read, guarded_write
from kvmharness.machine.slot import require_guest_memfd

from .system_calls import outcome_of

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 1)

MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
BUS_ADRERR = 2


@pytest.fixture
def private(typed_vm: Vm) -> Iterator[GuestMemfd]:
    """Four pages that can be mapped and belong to the guest: MMAP without INIT_SHARED."""
    require_guest_memfd(typed_vm, lib.GUEST_MEMFD_FLAG_MMAP)
    with typed_vm.create_guest_memfd(4 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_MMAP) as memfd:
        yield memfd


@pytest.fixture
def mapping(private: GuestMemfd) -> Iterator[Mapping]:
    with private.mmap() as mapped:
        yield mapped


@pytest.mark.scenario("gmem.fault.private_read")
@pytest.mark.parametrize("page", range(4))
def test_reading_a_private_page_is_sigbus(mapping: Mapping, page: int) -> None:
    with pytest.raises(InaccessibleMemory) as fault:
        mapping.read(page * PAGE_SIZE, PAGE_SIZE)
    assert fault.value.signal_name == "SIGBUS"
    assert fault.value.code == BUS_ADRERR
    assert fault.value.copied == 0
    assert fault.value.address == mapping.address + page * PAGE_SIZE


@pytest.mark.scenario("gmem.fault.private_write")
@pytest.mark.parametrize("page", range(4))
def test_writing_a_private_page_is_sigbus(mapping: Mapping, page: int) -> None:
    with pytest.raises(InaccessibleMemory) as fault:
        mapping.fill(page * PAGE_SIZE, PAGE_SIZE, 0xAA)
    assert fault.value.signal_name == "SIGBUS"
    assert fault.value.copied == 0


@pytest.mark.scenario("gmem.fault.private_after_allocation")
def test_allocating_it_does_not_make_it_the_hosts(private: GuestMemfd, mapping: Mapping) -> None:
    private.allocate(0, private.size)
    with pytest.raises(InaccessibleMemory):
        mapping.read(0, 1)
    private.punch_hole(0, private.size)
    with pytest.raises(InaccessibleMemory):
        mapping.read(0, 1)


@pytest.mark.scenario("gmem.fault.private_past_end")
def test_past_the_end_of_a_private_one_is_sigbus_as_well(private: GuestMemfd) -> None:
    with private.mmap(PAGE_SIZE, private.size) as past, pytest.raises(InaccessibleMemory) as fault:
        past.read(0, 1)
    assert fault.value.signal_name == "SIGBUS"


@pytest.mark.scenario("gmem.fault.private_syscall")
def test_the_kernel_itself_gets_efault(mapping: Mapping) -> None:
    """No SIGBUS for a system call that is given a private page as its buffer."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * PAGE_SIZE)
        file.flush()
        assert outcome_of(os.preadv, file.fileno(), [mapping.view()], 0) == "EFAULT"
        assert outcome_of(os.pwritev, file.fileno(), [mapping.view()], 0) == "EFAULT"


@pytest.mark.scenario("gmem.fault.private_populate")
@pytest.mark.parametrize("advice", [MADV_POPULATE_READ, MADV_POPULATE_WRITE])
def test_prefaulting_a_private_page_is_efault(mapping: Mapping, advice: int) -> None:
    assert mapping.try_madvise(advice).errno_name == "EFAULT"


@pytest.mark.scenario("gmem.fault.shared_syscall")
def test_system_calls_read_into_and_write_from_shared_memory(shared: GuestMemfd) -> None:
    with tempfile.TemporaryFile() as file, shared.mmap() as mapping:
        file.write(b"y" * shared.size)
        file.flush()
        assert os.preadv(file.fileno(), [mapping.view()], 0) == shared.size
        assert mapping.read() == b"y" * shared.size
        mapping.fill(0, shared.size, 0x7A)
        assert os.pwritev(file.fileno(), [mapping.view()], 0) == shared.size
        assert os.pread(file.fileno(), shared.size, 0) == b"z" * shared.size


@pytest.mark.scenario("gmem.fault.overflow")
def test_a_copy_over_the_end_stops_at_the_end(shared: GuestMemfd) -> None:
    with shared.mmap(4 * shared.size) as mapping:
        with pytest.raises(InaccessibleMemory) as fault:
            mapping.fill(0, 4 * shared.size, 0xAA)
        assert fault.value.signal_name == "SIGBUS"
        assert fault.value.copied == shared.size
        assert fault.value.address == mapping.address + shared.size
        with pytest.raises(InaccessibleMemory):
            mapping.read(shared.size, 1)
        assert mapping.read(0, shared.size) == b"\xaa" * shared.size


@pytest.mark.scenario("gmem.fault.guarded_anywhere")
def test_guarded_access_by_address(shared: GuestMemfd) -> None:
    with shared.mmap(2 * shared.size) as mapping:
        guarded_write(mapping.address + 10, b"text")
        assert guarded_read(mapping.address + 10, 4) == b"text"
        with pytest.raises(InaccessibleMemory):
            guarded_read(mapping.address + shared.size, 1)
        with pytest.raises(InaccessibleMemory) as fault:
            guarded_write(mapping.address + shared.size - 2, b"over")
        assert fault.value.copied == 2


@pytest.mark.scenario("gmem.fault.threads")
def test_each_thread_meets_its_own_fault(mapping: Mapping) -> None:
    """The guard is the thread's: faults at once on several threads don't mix up."""
    wrong: list[object] = []

    def touch(page: int) -> None:
        for _ in range(200):
            try:
                mapping.read(page * PAGE_SIZE, 1)
                wrong.append(f"page {page} could be read")
            except InaccessibleMemory as fault:
                if fault.address != mapping.address + page * PAGE_SIZE:
                    wrong.append((page, hex(fault.address)))

    threads = [threading.Thread(target=touch, args=(page,)) for page in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.scenario("gmem.fault.unguarded")
def test_an_unguarded_touch_kills_with_sigbus(mapping: Mapping) -> None:
    """What the guarded copies save from, seen in a child."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mapping.view()[0]
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGBUS
