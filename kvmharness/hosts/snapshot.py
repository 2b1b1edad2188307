# SPDX-License-Identifier: MIT
"""Snapshots of emulated hosts: booted, their modules loaded, nothing mounted yet.

A run goes on from there. What a snapshot holds is named by all that went into it: QEMU and its
command line, the kernel, the initial RAM file system. What differs from run to run, the shares and
the command, comes after it (orders.py). They are in the cache, the few that were used last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import HarnessError
from kvmharness.hosts.monitor import Monitor, MonitorError
from kvmharness.hosts.virtual_machine import CHANNELS, ORDERS, VirtualMachine
from kvmharness.kernels import cache

#: How many are kept, those used last; one takes about 150 MB.
KEPT = 6
#: Seconds for writing one.
_DEADLINE = 60.0


@dataclass(frozen=True)
class Snapshot:
    """One that there is, or may come to be: the file it has then."""

    file: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[int | None]:
        """Give an fd of the file, which stays readable if the file goes; None if there is none."""
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            os.utime(fd)  # used last
            yield fd
        finally:
            os.close(fd)

    def make(self, monitor: Monitor) -> None:
        """Have QEMU write the guest as it is now, and let it go on.

        Where that can't be done it is said, and the run goes on without. Raises MonitorError where
        the guest can't be let go on.
        """
        try:
            with cache.staging("snapshot") as directory:
                _write(monitor, directory / "snapshot")
                cache.publish(directory / "snapshot", self.file)
            _forget_old(self.file.parent)
        except (OSError, HarnessError) as error:
            progress.note(f"no snapshot of the emulated host can be made: {error}")
        monitor.do("cont", timeout=10)

    def drop(self) -> None:
        """Remove it: it could not be restored."""
        with contextlib.suppress(OSError):
            self.file.unlink()


def of(machine: VirtualMachine, initramfs: bytes) -> Snapshot:
    """Return the snapshot of a machine that has loaded its modules."""
    channels = dict.fromkeys((*CHANNELS, ORDERS), "null")
    anywhere = replace(machine, shares=[replace(s, path=Path()) for s in machine.shares])
    parts = [*machine.same(), *anywhere.argv("", channels, 0)]
    name = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape") + initramfs)
    directory = cache.cache_dir() / "snapshots"
    directory.mkdir(exist_ok=True)
    return Snapshot(directory / name.hexdigest()[:24])


def _write(monitor: Monitor, file: Path) -> None:
    # The guest is not stopped first: what was saved of a guest that stands would not go on. QEMU
    # stops it at the end, and it has nothing to do but wait for its orders.
    monitor.do("migrate-set-parameters", timeout=10, **{"max-bandwidth": 1 << 40})
    monitor.do("migrate", timeout=10, uri=f"file:{file}")
    give_up = time.monotonic() + _DEADLINE
    while (state := monitor.do("query-migrate", timeout=10))["status"] != "completed":
        if state["status"] in ("failed", "cancelled"):
            raise MonitorError(f"QEMU says: {state.get('error-desc', state['status'])}")
        if time.monotonic() > give_up:
            with contextlib.suppress(MonitorError):
                monitor.do("migrate_cancel", timeout=10)
            raise MonitorError(f"it took longer than {_DEADLINE:.0f} s")
        time.sleep(0.02)


def _forget_old(directory: Path) -> None:
    def used(path: Path) -> int:
        try:
            return -path.stat().st_mtime_ns
        except FileNotFoundError:  # another process's doing
            return 0

    newest_first: Sequence[Path] = sorted(directory.iterdir(), key=used)
    for old in newest_first[KEPT:]:
        old.unlink(missing_ok=True)
