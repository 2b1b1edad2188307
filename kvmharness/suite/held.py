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
modules           references to KVM's modules, of which each VM, vCPU and guest_memfd has some
RMP faults        writes of the host's to a guest's pages, as the stand-in for SNP finds them
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kvmharness.standins import snp

_PAGE_SIZE = mmap.PAGESIZE
_VMS = Path("/sys/kernel/debug/kvm")
_CGROUPS = Path("/sys/fs/cgroup")
_MODULE = Path("/sys/module")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
#: The group that this process and its children are put into.
_GROUP = "kvmharness"
_CONTROLLERS = "+memory +misc"
#: A VM's directory: the process that made it, and its fd there.
_VM = re.compile(r"\d+-\d+")
#: Of memory.stat: what is on the LRU lists, and what of it a file holds or a process maps.
_LISTED = ("active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable")
_OWNED = ("anon", "file")

#: Of memory.stat's `kernel`: what comes and goes with processes and files, whatever KVM does.
_NOT_KVMS = ("kernel_stack", "pagetables", "slab_reclaimable")
#: Where slabs are counted, and those from which KVM takes what is not charged to anybody.
_SLABS = Path("/proc/slabinfo")
_KVMS_SLABS = ("kmalloc-", "kvm_", "radix_tree_node")
_BYTES = "bytes of kernel memory"
#: How often something is done before it is measured what each leaves: caches fill meanwhile.
_WARM = 8
#: Bytes each time, and pages in all, that may be chance.
_CHANCE, _CHANCE_PAGES = 64, 3

_GUEST_MEMFD = "pages in guest_memfds"
_NOBODYS = "pages that nobody has, with a reference left (a pin on a source, a folio not put)"
_HUGE = "2 MiB huge pages"
_MODULES = "references to KVM's modules (a VM, a vCPU or a file that lives on)"
_RMP_FAULTS = "writes of the host's to a guest's pages: RMP faults on hardware"
#: What the misc controller counts (kernel/cgroup/misc.c).
_KEYS = {"sev": "SEV ASIDs", "sev_es": "SEV-ES and SNP ASIDs", "tdx": "TDX keys"}

#: How long something may take to go by itself, in seconds: an RCU grace period, a worker's turn.
_GRACE = 2.0

#: How many changes of a cgroup's counts a processor keeps to itself (MEMCG_CHARGE_BATCH), and how
#: memory is mapped that makes such changes at once.
_BATCH = 64
_POPULATED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE

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
        self._many = 4 * _BATCH * (os.cpu_count() or 1) * _PAGE_SIZE
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
        counts[_MODULES] = _references()
        counts[_RMP_FAULTS] = int(snp.read_state().get("host_writes", 0))
        keys = _numbers(self._group / "misc.current")
        counts |= {what: keys.get(name, 0) for name, what in _KEYS.items()}
        return Held(_vms(), counts)

    def guest_memfd_pages(self) -> int:
        """Return how many pages this process's guest_memfds have allocated."""
        self._settle_lists()
        return _numbers(self._group / "memory.stat")["unevictable"] // _PAGE_SIZE

    def left_since(self, before: Held) -> tuple[Held, Held]:
        """Return what it holds, and what of that it did not hold at `before` and keeps a while."""
        give_up = time.monotonic() + _GRACE
        while (left := (now := self.snapshot()) - before) and time.monotonic() < give_up:
            time.sleep(_GRACE / 50)
        return now, left

    def left_by_each(self, action: Callable[[], object], times: int) -> list[str]:
        """Return what each of so many repeats of `action` leaves in the kernel, a line a kind.

        Bytes that the cgroup is charged, and objects of slabs, whoever is charged for them. Both
        are kept by the page, so that a loss shows in a sum alone: repeat it until that is many
        pages. Of two rounds the one that left less counts, since something new may be kept once.
        """
        for _ in range(_WARM):
            action()
        rounds = []
        for _ in range(2):
            before = self._allocated()
            for _ in range(times):
                action()
            after = self._allocated()
            rounds.append({name: (after[name] - before.get(name, 0)) / times for name in after})
        least = {name: min(rounds[0].get(name, 0), each) for name, each in rounds[1].items()}
        chance = {_BYTES: max(_CHANCE, _CHANCE_PAGES * _PAGE_SIZE / times)}
        return [
            f"{each:.1f} {name}" for name, each in least.items() if each > chance.get(name, 0.5)
        ]

    def _allocated(self) -> dict[str, int]:
        """Return what the kernel has allocated: bytes for this process, and objects of slabs."""
        self._settle_lists()
        stat = _numbers(self._group / "memory.stat")
        allocated = {_BYTES: stat["kernel"] - sum(stat[name] for name in _NOT_KVMS)}
        for line in _SLABS.read_text().splitlines():
            name, active, *_ = line.split()
            if name.startswith(_KVMS_SLABS):
                allocated[f"objects of {name}"] = int(active)
        return allocated

    def _settle_lists(self) -> None:
        """Have pages put on the lists they belong to, and the counts brought up to date."""
        # Counts that are read are up to two seconds old, unless much has changed since.
        with mmap.mmap(-1, self._many, _POPULATED) as memory:
            assert len(memory) == self._many
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


def _references() -> int:
    count = 0
    for module in ("kvm", "kvm_amd", "kvm_intel"):
        with suppress(OSError, ValueError):
            count += int((_MODULE / module / "refcnt").read_text())
    return count


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
