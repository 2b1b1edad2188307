# SPDX-License-Identifier: MIT
"""What a piece of code left behind: fds, shared mappings, threads, child processes.

Two snapshots are compared. A snapshot reads four files of /proc and takes a fraction of a
millisecond, so that every test can have one; names are looked up only of what was left.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import threading
import time
from dataclasses import dataclass, replace

#: What marks a line of /proc/self/maps as somebody's resource: the permissions of a shared mapping
#: (a vCPU's run page, a guest_memfd, shared memory), or a memfd's name. Private anonymous memory is
#: the allocator's business.
_MARKS = (b"s ", b"/memfd:", b"/anon_huge")

#: Files that the C library maps shared, for reading: gconv's cache.
_SYSTEM_FILES = ("/usr/", "/lib")

#: Threads that the kernel adds to a process and ends by itself: KVM's page recovery, vhost and
#: io_uring workers. Their owners are fds, which are counted.
_KERNEL_THREADS = ("kvm-", "vhost-", "iou-")

#: How long something may take to go away by itself (a thread past its join, a child past its exit).
_GRACE = 0.1

Mapping = tuple[int, int, str]


@dataclass(frozen=True)
class Snapshot:
    """What this process owned at one moment."""

    fds: frozenset[tuple[int, str]]
    mappings: frozenset[Mapping]
    threads: frozenset[int]
    children: frozenset[int]

    def __sub__(self, other: Snapshot) -> Snapshot:
        """Return what is here and not in `other`."""
        return Snapshot(
            self.fds - other.fds,
            frozenset(m for m in self.mappings - other.mappings if not _inside(m, other.mappings)),
            self.threads - other.threads,
            self.children - other.children,
        )

    def __or__(self, other: Snapshot) -> Snapshot:
        """Return what is in either."""
        return Snapshot(
            self.fds | other.fds,
            self.mappings | other.mappings,
            self.threads | other.threads,
            self.children | other.children,
        )

    def __bool__(self) -> bool:
        return bool(self.fds or self.mappings or self.threads or self.children)

    def counts(self) -> str:
        """Say how much of each kind: ``1 fd, 2 threads``."""
        counted = (
            (len(self.fds), "fd", "fds"),
            (len(self.mappings), "mapping", "mappings"),
            (len(self.threads), "thread", "threads"),
            (len(self.children), "child process", "child processes"),
        )
        return ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counted if n)

    def describe(self) -> list[str]:
        """Return one line for each thing, with its name."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        return [
            *(f"fd {fd}: {target}" for fd, target in sorted(self.fds)),
            *(
                f"mapping {start:#x}-{end:#x} ({end - start} bytes): {name or 'shared memory'}"
                for start, end, name in sorted(self.mappings)
            ),
            *(f"thread {tid}: {names.get(tid) or _comm(tid)}" for tid in sorted(self.threads)),
            *(f"child process {pid}: {_command(pid)}" for pid in sorted(self.children)),
        ]


def _inside(mapping: Mapping, others: frozenset[Mapping]) -> bool:
    """Whether `mapping` is what remains of one of `others`, after mprotect or munmap split it."""
    start, end, name = mapping
    return any(name == n and s <= start and end <= e for s, e, n in others)


def snapshot() -> Snapshot:
    """Return what this process owns now."""
    return Snapshot(_fds(), _mappings(), _threads(), _children())


def left_since(before: Snapshot, *, foreign_threads: bool = True) -> Snapshot:
    """Return what this process owns and did not own at `before`.

    `foreign_threads`: count threads that Python did not start. Nothing is accused before the
    garbage collector has run, and what is on its way out (an exiting thread, a child that ended
    but was not waited for by a forgotten Popen) had a moment to go.
    """
    left = _left(before, foreign_threads)
    if not left:
        return left
    gc.collect()
    # Reaps the children of dropped Popen objects that have ended, as the next Popen would.
    subprocess._cleanup()  # type: ignore[attr-defined]
    give_up = time.monotonic() + _GRACE
    while (left := _left(before, foreign_threads)) and time.monotonic() < give_up:
        time.sleep(_GRACE / 10)
    return left


def _left(before: Snapshot, foreign_threads: bool) -> Snapshot:
    left = snapshot() - before
    if left.threads and not foreign_threads:
        own = frozenset(thread.native_id for thread in threading.enumerate())
        left = replace(left, threads=left.threads & own)
    return left


def _fds() -> frozenset[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        # The listing's own fd is gone by now.
        with contextlib.suppress(OSError):
            found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return frozenset(found)


def _mappings() -> frozenset[Mapping]:
    with open("/proc/self/maps", "rb") as file:
        text = file.read()
    found = set()
    # Of some two hundred lines a handful count: they are searched for, not parsed all.
    for mark in _MARKS:
        at = text.find(mark)
        while at >= 0:
            end = text.index(b"\n", at)
            addresses, permissions, _, _, _, *name = text[text.rfind(b"\n", 0, at) + 1 : end].split(
                None, 5
            )
            shown = b"".join(name).decode(errors="replace")
            counts = permissions.endswith(b"s") or mark != b"s "
            if counts and not shown.startswith(_SYSTEM_FILES):
                first, _, last = addresses.partition(b"-")
                found.add((int(first, 16), int(last, 16), shown))
            at = text.find(mark, end)
    return frozenset(found)


def _threads() -> frozenset[int]:
    tids = frozenset(int(name) for name in os.listdir("/proc/self/task"))
    if len(tids) == 1:
        return tids
    return frozenset(tid for tid in tids if not _comm(tid).startswith(_KERNEL_THREADS))


def _children() -> frozenset[int]:
    found: list[int] = []
    for tid in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{tid}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/self/task/{tid}"):
                # A kernel without CONFIG_PROC_CHILDREN: psutil looks at every process there is.
                import psutil

                return frozenset(child.pid for child in psutil.Process().children())
        except ProcessLookupError:
            continue
    return frozenset(found)


def _comm(tid: int) -> str:
    try:
        with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "ended"


def _command(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        words = process.cmdline() or [process.name()]
        return f"{' '.join(words)[:200]} ({process.status()})"
    except psutil.Error:
        return "ended"
