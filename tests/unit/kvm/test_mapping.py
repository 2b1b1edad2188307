# SPDX-License-Identifier: MIT
"""Owned fds and mappings; guarded copies, with memory whose file was cut under it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import HarnessError, InaccessibleMemory
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    Mapping,
    guarded_read,
    guarded_write,
    map_memory,
    try_mmap,
)
from kvmharness.kvm.result import KvmError

ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def is_mapped(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return True
    return False


def memfd(size: int) -> OwnedFd:
    fd = OwnedFd(os.memfd_create("kvmharness-test", os.MFD_CLOEXEC))
    os.truncate(fd.fileno(), size)
    return fd


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    """Four anonymous pages."""
    with map_memory(4 * PAGE_SIZE, flags=ANONYMOUS) as mapped:
        yield mapped


@pytest.fixture
def cut() -> Iterator[Mapping]:
    """Four pages of a file that has two: touching the others is SIGBUS."""
    with (
        memfd(4 * PAGE_SIZE) as fd,
        map_memory(4 * PAGE_SIZE, flags=MAP_SHARED, fd=fd.fileno()) as mapped,
    ):
        mapped.fill(0, 4 * PAGE_SIZE, 0x11)
        os.truncate(fd.fileno(), 2 * PAGE_SIZE)
        yield mapped


# ------------------------------------------------------------------ fds


def test_an_fd_is_closed_once() -> None:
    number = os.dup(0)
    fd = OwnedFd(number)
    assert fd.fileno() == number
    fd.close()
    assert fd.closed
    assert fd.fileno() == -1
    assert not is_open(number)
    other = os.open("/dev/null", os.O_RDONLY)  # takes the number, as a rule
    fd.close()
    assert is_open(other)
    os.close(other)


def test_the_with_block_closes() -> None:
    with OwnedFd(os.dup(0)) as fd:
        number = fd.fileno()
        assert is_open(number)
    assert not is_open(number)


def test_the_object_closes_with_its_last_reference() -> None:
    number = os.dup(0)
    fd = OwnedFd(number)
    del fd
    gc.collect()
    assert not is_open(number)


def test_an_object_whose_making_failed_closes_nothing() -> None:
    class Failing(OwnedFd):
        def __init__(self) -> None:
            raise RuntimeError("before there was an fd")

    with pytest.raises(RuntimeError):
        Failing()
    gc.collect()  # __del__ must not raise


def test_an_fd_shows_its_number_and_kind() -> None:
    with OwnedFd(os.dup(0)) as fd:
        assert repr(fd) == f"<OwnedFd fd={fd.fileno()}>"


# ------------------------------------------------------------------ mappings


def test_memory_is_zero_and_holds_what_is_written(mapping: Mapping) -> None:
    assert mapping.read() == bytes(4 * PAGE_SIZE)
    mapping.write(PAGE_SIZE - 2, b"across")
    assert mapping.read(PAGE_SIZE - 3, 8) == b"\0across\0"
    mapping.fill(PAGE_SIZE, 10, 0xAB)
    assert mapping.read(PAGE_SIZE - 2, 13) == b"ac" + b"\xab" * 10 + b"\0"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_written(mapping: Mapping, kind: type) -> None:
    mapping.write(3, kind(b"data"))
    assert mapping.read(3, 4) == b"data"


def test_nothing_can_be_read_and_written(mapping: Mapping) -> None:
    mapping.write(4 * PAGE_SIZE, b"")
    mapping.fill(0, 0, 1)
    assert mapping.read(4 * PAGE_SIZE, 0) == b""
    assert mapping.read(4 * PAGE_SIZE) == b""


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 1), (0, -1), (4 * PAGE_SIZE, 1), (PAGE_SIZE, 4 * PAGE_SIZE)]
)
def test_access_outside_is_refused_before_it_is_tried(
    mapping: Mapping, offset: int, size: int
) -> None:
    with pytest.raises(ValueError, match="outside a mapping"):
        mapping.read(offset, size)
    with pytest.raises(ValueError, match="outside a mapping"):
        mapping.fill(offset, size, 0)
    with pytest.raises(ValueError, match="outside a mapping"):
        mapping.protect(PROT_READ, offset, size)


def test_large_unaligned_copies_are_exact(mapping: Mapping) -> None:
    data = bytes(index * 7 & 0xFF for index in range(3 * PAGE_SIZE))
    for offset in (0, 1, 7, PAGE_SIZE - 1):
        mapping.fill(0, mapping.size, 0)
        mapping.write(offset, data)
        assert mapping.read(offset, len(data)) == data
        assert not any(mapping.read(0, offset))
        assert not any(mapping.read(offset + len(data)))


def test_a_closed_mapping_is_gone_and_says_so(mapping: Mapping) -> None:
    address = mapping.address
    assert is_mapped(address)
    mapping.close()
    mapping.close()
    assert mapping.closed
    for use in (mapping.read, mapping.view, lambda: mapping.write(0, b"x")):
        with pytest.raises(HarnessError, match="is closed"):
            use()


def test_a_failed_mmap_is_a_result_or_an_error() -> None:
    result = try_mmap(PAGE_SIZE, fd=-1)
    assert (result.name, result.errno_name, result.value) == ("mmap", "EBADF", None)
    with pytest.raises(KvmError, match="mmap failed: EBADF"):
        map_memory(PAGE_SIZE, fd=-1)


def test_a_mapping_shows_where_it_is(mapping: Mapping) -> None:
    assert repr(mapping) == f"<Mapping {mapping.address:#x}+0x4000>"
    mapping.close()
    assert repr(mapping).endswith(" closed>")


# ------------------------------------------------------------------ views


def test_a_view_is_the_memory_itself(mapping: Mapping) -> None:
    view = mapping.view()
    assert (len(view), view.readonly, view.format) == (mapping.size, False, "B")
    view[10:14] = b"view"
    assert mapping.read(10, 4) == b"view"
    mapping.write(10, b"back")
    assert bytes(view[10:14]) == b"back"


def test_a_view_outlives_its_mapping_as_zeros() -> None:
    """Never a dangling pointer: until the last view goes, the range stays memory."""
    mapping = map_memory(2 * PAGE_SIZE, flags=ANONYMOUS)
    address = mapping.address
    view = mapping.view()
    part = view[PAGE_SIZE:]
    view[0] = part[0] = 7
    mapping.close()
    assert bytes(view) == bytes(2 * PAGE_SIZE)
    view[0] = 1
    del view
    gc.collect()
    assert part[0] == 0
    part[0] = 9
    assert is_mapped(address)
    del part
    gc.collect()
    assert not is_mapped(address)


def test_a_closed_mapping_releases_its_file_though_a_view_is_held() -> None:
    with memfd(PAGE_SIZE) as fd:
        mapping = map_memory(PAGE_SIZE, flags=MAP_SHARED, fd=fd.fileno())
        view = mapping.view()
        view[0] = 5
        mapping.close()
        view[0] = 6
        assert os.pread(fd.fileno(), 1, 0) == b"\5"


def test_a_mapping_forgotten_while_a_view_is_held() -> None:
    mapping = map_memory(PAGE_SIZE, flags=ANONYMOUS)
    address = mapping.address
    view = mapping.view()
    del mapping
    gc.collect()
    view[0] = 1  # still memory
    del view
    gc.collect()
    assert not is_mapped(address)


# ------------------------------------------------------------------ holes, protection, advice


def test_a_hole_is_unmapped_and_left_alone() -> None:
    with map_memory(4 * PAGE_SIZE, flags=ANONYMOUS) as mapping:
        mapping.unmap(PAGE_SIZE, PAGE_SIZE)
        mapping.write(0, b"before")
        mapping.write(2 * PAGE_SIZE, b"behind")
        with pytest.raises(InaccessibleMemory) as fault:
            mapping.read(PAGE_SIZE, 1)
        assert fault.value.signal_name == "SIGSEGV"
        # Somebody else's memory moves into the hole: close() must not take it away.
        other = map_memory(PAGE_SIZE, flags=ANONYMOUS | 0x10, address=mapping.address + PAGE_SIZE)
        other.write(0, b"other")
        mapping.close()
        assert other.read(0, 5) == b"other"
        assert not is_mapped(mapping.address + 2 * PAGE_SIZE)
        other.close()


def test_protection_is_felt_by_guarded_access(mapping: Mapping) -> None:
    mapping.write(0, b"kept")
    mapping.protect(PROT_READ)
    assert mapping.read(0, 4) == b"kept"
    with pytest.raises(InaccessibleMemory):
        mapping.write(0, b"x")
    with pytest.raises(InaccessibleMemory):
        mapping.fill(0, 1, 0)
    mapping.protect(PROT_NONE, PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(InaccessibleMemory) as fault:
        mapping.read()
    assert fault.value.copied == PAGE_SIZE
    mapping.protect(PROT_READ | PROT_WRITE)
    mapping.write(0, b"more")


def test_an_unaligned_protection_is_the_kernels_to_refuse(mapping: Mapping) -> None:
    with pytest.raises(KvmError, match="mprotect failed: EINVAL"):
        mapping.protect(PROT_READ, 1, PAGE_SIZE)
    with pytest.raises(KvmError, match="munmap failed: EINVAL"):
        mapping.unmap(1, PAGE_SIZE)


def test_advice_and_locks_are_results(mapping: Mapping) -> None:
    mapping.write(0, b"gone")
    assert mapping.try_madvise(4).ok  # MADV_DONTNEED
    assert mapping.read(0, 4) == bytes(4)
    assert mapping.try_madvise(9999).errno_name == "EINVAL"
    assert mapping.try_mlock(0, PAGE_SIZE).name == "mlock"


# ------------------------------------------------------------------ guarded copies


def test_a_page_behind_the_end_of_its_file_is_sigbus(cut: Mapping) -> None:
    assert cut.read(0, 2 * PAGE_SIZE) == b"\x11" * 2 * PAGE_SIZE
    for action in (lambda: cut.read(2 * PAGE_SIZE, 1), lambda: cut.fill(2 * PAGE_SIZE, 1, 0)):
        with pytest.raises(InaccessibleMemory) as fault:
            action()
        assert fault.value.signal_name == "SIGBUS"
        assert fault.value.address == cut.address + 2 * PAGE_SIZE
        assert fault.value.copied == 0


@pytest.mark.parametrize("start", [0, 1, PAGE_SIZE, 2 * PAGE_SIZE - 1])
def test_what_lies_before_a_fault_is_copied(cut: Mapping, start: int) -> None:
    with pytest.raises(InaccessibleMemory) as fault:
        cut.write(start, b"\x77" * (4 * PAGE_SIZE - start))
    assert fault.value.copied == 2 * PAGE_SIZE - start
    assert cut.read(0, start) == b"\x11" * start
    assert cut.read(start, 2 * PAGE_SIZE - start) == b"\x77" * (2 * PAGE_SIZE - start)


@pytest.mark.parametrize("kind", [bytearray, lambda size: memoryview(bytearray(size)).cast("I")])
def test_a_buffer_is_filled_up_to_a_fault(cut: Mapping, kind: Callable[[int], Any]) -> None:
    buffer = kind(2 * PAGE_SIZE)
    cut.read_into(buffer)
    assert bytes(buffer) == b"\x11" * 2 * PAGE_SIZE
    buffer = kind(2 * PAGE_SIZE)
    with pytest.raises(InaccessibleMemory) as fault:
        cut.read_into(buffer, PAGE_SIZE)
    assert fault.value.copied == PAGE_SIZE
    assert bytes(buffer) == b"\x11" * PAGE_SIZE + bytes(PAGE_SIZE)


def test_a_buffer_that_cannot_be_filled_is_refused(mapping: Mapping) -> None:
    with pytest.raises(BufferError):
        mapping.read_into(bytes(8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        mapping.read_into(bytearray(8), mapping.size - 7)
    mapping.close()
    with pytest.raises(HarnessError, match="closed"):
        mapping.read_into(bytearray(8))


def test_a_fault_keeps_no_buffer(cut: Mapping) -> None:
    """A memoryview in a cycle with what was made from it ends the interpreter when collected."""
    acts: list[Callable[[memoryview], None]] = [
        lambda buffer: cut.write(PAGE_SIZE, buffer),
        lambda buffer: cut.read_into(buffer, PAGE_SIZE),
        lambda buffer: guarded_write(cut.address + PAGE_SIZE, buffer),
    ]
    for act in acts:
        buffer = memoryview(bytearray(2 * PAGE_SIZE))
        with pytest.raises(InaccessibleMemory) as fault:
            act(buffer)
        buffer.release()  # BufferError if anything still has it
        assert fault.value.copied == PAGE_SIZE


def test_faults_can_be_met_again_and_again(cut: Mapping) -> None:
    for _ in range(1000):
        with pytest.raises(InaccessibleMemory):
            cut.read(3 * PAGE_SIZE, 1)
    assert cut.read(0, 1) == b"\x11"


def test_no_signal_stays_blocked_after_a_fault(cut: Mapping) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(InaccessibleMemory):
        cut.read(3 * PAGE_SIZE, 1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_by_address(cut: Mapping) -> None:
    guarded_write(cut.address + 5, b"here")
    assert guarded_read(cut.address + 5, 4) == b"here"
    assert guarded_read(0, 0) == b""
    for address in (0, 8, cut.address + 2 * PAGE_SIZE, 2**47 - PAGE_SIZE):
        with pytest.raises(InaccessibleMemory):
            guarded_read(address, 1)
        with pytest.raises(InaccessibleMemory):
            guarded_write(address, b"x")


def test_a_non_canonical_address_is_named_though_the_signal_does_not() -> None:
    """A general protection fault comes without an address (SI_KERNEL): the copy knows its own."""
    for action in (guarded_read, lambda at, _: guarded_write(at, b"x")):
        with pytest.raises(InaccessibleMemory) as fault:
            action(1 << 62, 1)
        assert (fault.value.address, fault.value.copied) == (1 << 62, 0)
        assert fault.value.signal_name == "SIGSEGV"


def test_threads_meet_their_own_faults(cut: Mapping, mapping: Mapping) -> None:
    failed: list[object] = []

    def touch(good: bool) -> None:
        for _ in range(500):
            try:
                (mapping if good else cut).read(3 * PAGE_SIZE, 64)
                if not good:
                    failed.append("a page behind the end was read")
            except InaccessibleMemory as fault:
                if good:
                    failed.append(fault)

    threads = [threading.Thread(target=touch, args=(turn % 2 == 0,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed


# ------------------------------------------------------------------ other handlers, in a process

CUT = """
    import ctypes, faulthandler, os, resource, signal, sys
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from kvmharness.errors import InaccessibleMemory
    from kvmharness.kvm.mapping import map_memory, MAP_SHARED
    fd = os.memfd_create("cut")
    os.truncate(fd, 8192)
    cut = map_memory(8192, flags=MAP_SHARED, fd=fd)
    os.truncate(fd, 4096)
    def guarded():
        try:
            cut.read(4096, 1)
        except InaccessibleMemory as error:
            print(error.signal_name, flush=True)
    def crash():
        ctypes.string_at(cut.address + 4096, 1)
"""


def run_cut(program: str) -> subprocess.CompletedProcess[str]:
    whole = textwrap.dedent(CUT) + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("enabled", ["before", "between", "never", "and off again"])
def test_faulthandler_and_the_guard_live_together(enabled: str) -> None:
    """A guarded fault stays quiet, and a real one still gives its traceback and the right death."""
    program = {
        "before": "faulthandler.enable(); guarded(); guarded(); crash()",
        "between": "guarded(); faulthandler.enable(); guarded(); crash()",
        "never": "guarded(); guarded(); crash()",
        "and off again": (
            "faulthandler.enable(); guarded(); faulthandler.disable(); guarded(); crash()"
        ),
    }[enabled]
    done = run_cut(program)
    assert done.stdout == "SIGBUS\nSIGBUS\n"
    assert done.returncode == -signal.SIGBUS
    shown = enabled in ("before", "between")
    assert done.stderr.count("Fatal Python error: Bus error") == int(shown)


def test_faulthandler_enabled_after_the_last_guarded_copy() -> None:
    done = run_cut("guarded(); faulthandler.enable(); crash()")
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


def test_a_real_segmentation_fault_still_kills() -> None:
    done = run_cut("faulthandler.enable(); guarded(); ctypes.string_at(8, 1)")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


@pytest.mark.parametrize("name", ["SIGBUS", "SIGSEGV"])
def test_a_signal_that_was_sent_is_no_fault(name: str) -> None:
    done = run_cut(f"guarded(); os.kill(os.getpid(), signal.{name}); print('alive')")
    assert done.returncode == -signal.Signals[name]
    assert "alive" not in done.stdout


def test_a_signal_that_was_sent_reaches_the_handler_before_ours() -> None:
    done = run_cut(
        """
        signal.signal(signal.SIGBUS, lambda *_: print("python's", flush=True))
        guarded()
        os.kill(os.getpid(), signal.SIGBUS)
        signal.sigtimedwait([], 0.01)
        guarded()
        """
    )
    assert done.stdout == "SIGBUS\npython's\nSIGBUS\n"
    assert done.returncode == 0


def test_a_fault_on_another_thread_is_not_swallowed() -> None:
    """The guard is per thread: while one thread copies, another's crash stays a crash."""
    done = run_cut(
        """
        import threading
        stop = threading.Event()
        def copy():
            while not stop.is_set():
                try:
                    cut.read(4096, 1)
                except InaccessibleMemory:
                    pass
        threading.Thread(target=copy, daemon=True).start()
        crash()
        """
    )
    assert done.returncode == -signal.SIGBUS
