# SPDX-License-Identifier: MIT
"""What the kernel holds of a test that is over: VMs, pages, ASIDs and keys.

leaks.py sees what the process itself kept. What the kernel forgets to let go of (a reference to a
VM, a page's count, a pin on a source) shows in no process. Where it shows:

VMs               the directories of debugfs's kvm, one a VM until its last reference is put
guest_memfds      the unevictable pages of the memory cgroup: its own can't be reclaimed
pages of nobody   pages on the LRU lists less those that a file holds or a process maps: none,
                  unless a reference was not put. So a guest_memfd's page, punched out or its file
                  closed; so a source's that stayed pinned, unmapped and its file closed
huge pages        those in use, of the hugetlb pool
ASIDs, keys       as the misc controller counts them, which is KVM's charge and not the stand-in's

That takes a cgroup of one's own (version 2): init of an emulated host mounts them. A snapshot
costs about 10 ms there, most of it for having each processor put what it batches on the LRU lists.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_PAGE_SIZE = mmap.PAGESIZE
_VMS = Path("/sys/kernel/debug/kvm")
_CGROUPS = Path("/sys/fs/cgroup")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
#: The group that this process and its children are put into.
_GROUP = "kvmharness"
_CONTROLLERS = "+memory +misc"
#: A VM's directory: the process that made it, and its fd there.
_VM = re.compile(r"\d+-\d+")
#: Of memory.stat: what is on the LRU lists, and what of it a file holds or a process maps.
_LISTED = ("active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable")
_OWNED = ("anon", "file")

_GUEST_MEMFD = "pages in guest_memfds"
_NOBODYS = "pages that nobody has, with a reference left (a pin on a source, a folio not put)"
_HUGE = "2 MiB huge pages"
#: What the misc controller counts (kernel/cgroup/misc.c).
_KEYS = {"sev": "SEV ASIDs", "sev_es": "SEV-ES and SNP ASIDs", "tdx": "TDX keys"}

#: How long something may take to go by itself, in seconds: an RCU grace period, a worker's turn.
_GRACE = 2.0

#: migrate_pages(2) on x86-64. From node 0 to node 0 it moves nothing, but has every processor put
#: what it holds back on the LRU lists (lru_cache_disable(), mm/mempolicy.c).
_MIGRATE_PAGES = 256


@dataclass(frozen=True)
class Held:
    """What the kernel held at one moment."""

    vms: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)

    def __sub__(self, other: Held) -> Held:
        """Return what is here and not in `other`; of numbers, by how much they are greater."""
        return Held(self.vms - other.vms, dict(Counter(self.counts) - Counter(other.counts)))

    def __add__(self, other: Held) -> Held:
        """Return both together."""
        return Held(self.vms | other.vms, dict(Counter(self.counts) + Counter(other.counts)))

    def __bool__(self) -> bool:
        return bool(self.vms or any(self.counts.values()))

    def describe(self) -> list[str]:
        """Return a line for each kind."""
        vms = [f"VM {name} (process and fd that made it)" for name in sorted(self.vms)]
        return [*vms, *(f"{count} {what}" for what, count in self.counts.items() if count)]


class HeldByKernel:
    """What the kernel holds, as far as this host lets it be seen."""

    def __init__(self, group: Path) -> None:
        self._group = group
        self._nodes = ctypes.c_ulong(1)
        self._libc = ctypes.CDLL(None)

    @classmethod
    def open(cls) -> Self | None:
        """Put this process into a cgroup of its own; None where there can be none."""
        group = _CGROUPS / _GROUP
        try:
            (_CGROUPS / "cgroup.subtree_control").write_text(_CONTROLLERS)
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            return None
        return cls(group)

    def snapshot(self) -> Held:
        """Return what it holds now."""
        self._settle_lists()
        stat = _numbers(self._group / "memory.stat")
        nobodys = sum(stat.get(name, 0) for name in _LISTED) - sum(stat[name] for name in _OWNED)
        counts = {
            _GUEST_MEMFD: stat.get("unevictable", 0) // _PAGE_SIZE,
            _NOBODYS: max(nobodys, 0) // _PAGE_SIZE,
            _HUGE: _huge_pages(),
        }
        keys = _numbers(self._group / "misc.current")
        counts |= {what: keys.get(name, 0) for name, what in _KEYS.items()}
        return Held(_vms(), counts)

    def left_since(self, before: Held) -> tuple[Held, Held]:
        """Return what it holds, and what of that it did not hold at `before` and keeps a while."""
        give_up = time.monotonic() + _GRACE
        while (left := (now := self.snapshot()) - before) and time.monotonic() < give_up:
            time.sleep(_GRACE / 50)
        return now, left

    def _settle_lists(self) -> None:
        node = ctypes.byref(self._nodes)
        self._libc.syscall(_MIGRATE_PAGES, 0, 2, node, node)


def kept_keys(count: int) -> Held:
    """What `count` VMs leave whose ASID or key the firmware would not give back.

    KVM keeps the charge of one that it can't use again. A kernel without TDX charges TDs' as SEV's.
    """
    return Held(counts=dict.fromkeys(_KEYS.values(), count))


def _vms() -> frozenset[str]:
    try:
        return frozenset(name for name in os.listdir(_VMS) if _VM.fullmatch(name))
    except OSError:
        return frozenset()


def _huge_pages() -> int:
    with suppress(OSError, ValueError):
        everything, free = (
            int((_HUGE_PAGES / name).read_text()) for name in ("nr_hugepages", "free_hugepages")
        )
        return everything - free
    return 0


def _numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file of ``NAME NUMBER`` lines; none of one that is not there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {name: int(number) for name, number in pairs}
