# SPDX-License-Identifier: MIT
"""Snapshots see what was left behind, name it, and accuse nothing that goes by itself."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator

import pytest

from kvmharness.suite import leaks


@pytest.fixture
def before() -> leaks.Snapshot:
    return leaks.snapshot()


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("leaky")
    os.ftruncate(fd, 2 * mmap.PAGESIZE)
    yield fd
    os.close(fd)


def test_nothing_done_is_nothing_left(before: leaks.Snapshot) -> None:
    assert not leaks.left_since(before)


def test_an_open_fd_is_named_by_its_target(before: leaks.Snapshot) -> None:
    read, write = os.pipe()
    try:
        left = leaks.left_since(before)
        assert left.counts() == "2 fds"
        assert left.describe() == [
            f"fd {fd}: {os.readlink(f'/proc/self/fd/{fd}')}" for fd in (read, write)
        ]
    finally:
        os.close(read)
        os.close(write)
    assert not leaks.left_since(before)


def test_a_number_reused_by_another_file_counts(before: leaks.Snapshot) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with_null = leaks.snapshot()
        other = os.open("/dev/zero", os.O_RDONLY)
        os.dup2(other, fd)
        os.close(other)
        assert leaks.left_since(with_null).describe() == [f"fd {fd}: /dev/zero"]
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_a_mapped_memfd_is_left_after_its_fd_is_closed(flags: int) -> None:
    before = leaks.snapshot()
    fd = os.memfd_create("leaky")
    os.ftruncate(fd, 2 * mmap.PAGESIZE)
    # Python's mmap keeps a duplicate of the fd, which counts as well; KVM's mappings don't.
    mapping = mmap.mmap(fd, 2 * mmap.PAGESIZE, flags)
    os.close(fd)
    left = leaks.left_since(before)
    assert [(end - start, name) for start, end, name in left.mappings] == [
        (2 * mmap.PAGESIZE, "/memfd:leaky (deleted)")
    ]
    assert "8192 bytes): /memfd:leaky" in "\n".join(left.describe())
    mapping.close()
    assert not leaks.left_since(before)


def test_shared_anonymous_memory_counts_and_private_does_not(before: leaks.Snapshot) -> None:
    private = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert not leaks.left_since(before)
    shared = mmap.mmap(-1, 1 << 20)
    assert leaks.left_since(before).counts() == "1 mapping"
    shared.close()
    private.close()


def test_what_remains_of_a_mapping_is_not_new(memfd: int) -> None:
    with mmap.mmap(memfd, 2 * mmap.PAGESIZE) as mapping:
        before = leaks.snapshot()
        # A fork child would not see it: half of what was one mapping becomes one of its own.
        mapping.madvise(mmap.MADV_DONTFORK, 0, mmap.PAGESIZE)
        after = leaks.snapshot()
        assert len(after.mappings) == len(before.mappings) + 1
        assert not after - before


def test_a_shared_file_mapping_counts(before: leaks.Snapshot) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
        left = leaks.left_since(before)
        assert len(left.mappings) == 1
        mapping.close()


def test_a_running_thread_is_named() -> None:
    before = leaks.snapshot()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(30,), name="straggler")
    thread.start()
    try:
        left = leaks.left_since(before)
        assert left.describe() == [f"thread {thread.native_id}: straggler"]
        assert leaks.left_since(before, foreign_threads=False) == left
    finally:
        stop.set()
        thread.join()
    assert not leaks.left_since(before)


def test_a_thread_on_its_way_out_is_not_accused(before: leaks.Snapshot) -> None:
    threading.Timer(0.03, lambda: None).start()
    assert not leaks.left_since(before)


def test_a_child_is_named_by_its_command(before: leaks.Snapshot) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        left = leaks.left_since(before)
        assert left.children == {child.pid}
        assert left.describe() == [f"child process {child.pid}: sleep 60 (sleeping)"]
        child.kill()
    assert not leaks.left_since(before)


def test_a_forgotten_popen_of_an_ended_child_is_reaped(before: leaks.Snapshot) -> None:
    with pytest.warns(ResourceWarning):
        subprocess.Popen(["true"]).__del__()
    assert not leaks.left_since(before)


def test_garbage_that_holds_an_fd_is_collected_first(before: leaks.Snapshot) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.fd = os.open("/dev/null", os.O_RDONLY)

        def __del__(self) -> None:
            os.close(self.fd)

    Cycle()
    assert leaks.snapshot() - before
    assert not leaks.left_since(before)


def test_without_proc_children_psutil_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def no_children(path: str, *args: object, **kwargs: object) -> object:
        if str(path).endswith("/children"):
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", no_children)
    with subprocess.Popen(["sleep", "60"]) as child:
        assert leaks.snapshot().children == {child.pid}
        child.kill()
