# SPDX-License-Identifier: MIT
"""What the kernel holds is read out of a cgroup and debugfs; what a test left is told by kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmharness.suite import held
from kvmharness.suite.held import Held, HeldByKernel, kept_keys

PAGE = 4096
STAT = """\
anon {anon}
file 8192
active_anon {anon}
inactive_anon 0
active_file 0
inactive_file 8192
unevictable {unevictable}
"""

NOT_KVMS = ("kernel_stack", "pagetables", "slab_reclaimable")


class Kernel:
    """Files as an emulated host has them, of a kernel that holds what it is told to hold."""

    def __init__(self, top: Path) -> None:
        self.vms, self.cgroups, self.huge = top / "kvm", top / "cgroup", top / "huge"
        self.module = top / "module"
        made = (self.vms, self.cgroups / "kvmharness", self.huge, self.module / "kvm_amd")
        for directory in made:
            directory.mkdir(parents=True)
        self.slabs = top / "slabinfo"
        self.holds()

    def allocates(self, kernel: int, objects: int) -> None:
        self.slabs.write_text(
            f"slabinfo - version: 2.1\n# name active\nkmalloc-96 {objects} 900 96\n"
        )
        for name, number in {"kernel": kernel, **dict.fromkeys(NOT_KVMS, 1 << 20)}.items():
            with (self.cgroups / "kvmharness" / "memory.stat").open("a") as stat:
                stat.write(f"{name} {number}\n")

    def holds(
        self, *vms: str, unevictable: int = 0, anon: int = 4, used: int = 0, snp: int = 0
    ) -> None:
        for old in self.vms.iterdir():
            old.rmdir()
        for name in ("halt_exits", *vms):
            (self.vms / name).mkdir()
        stat = STAT.format(anon=anon * PAGE, unevictable=unevictable * PAGE)
        (self.cgroups / "kvmharness" / "memory.stat").write_text(stat)
        (self.cgroups / "kvmharness" / "misc.current").write_text(f"sev 0\nsev_es {snp}\n")
        (self.module / "kvm_amd" / "refcnt").write_text(f"{1 + 2 * len(vms)}\n")
        (self.huge / "nr_hugepages").write_text("2\n")
        (self.huge / "free_hugepages").write_text(f"{2 - used}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(held, "_VMS", made.vms)
    monkeypatch.setattr(held, "_CGROUPS", made.cgroups)
    monkeypatch.setattr(held, "_HUGE_PAGES", made.huge)
    monkeypatch.setattr(held, "_MODULE", made.module)
    monkeypatch.setattr(held, "_SLABS", made.slabs)
    monkeypatch.setattr(held, "_GRACE", 0.05)
    return made


@pytest.fixture
def seen(kernel: Kernel) -> HeldByKernel:
    opened = HeldByKernel.open()
    assert opened is not None
    return opened


def left(seen: HeldByKernel, before: Held) -> list[str]:
    return seen.left_since(before)[1].describe()


def test_what_was_there_before_is_no_tests_own(kernel: Kernel, seen: HeldByKernel) -> None:
    kernel.holds("7-3", unevictable=2, snp=1)
    before = seen.snapshot()
    assert left(seen, before) == []
    kernel.holds(unevictable=1)
    assert left(seen, before) == []


def test_each_kind_is_told(kernel: Kernel, seen: HeldByKernel) -> None:
    before = seen.snapshot()
    kernel.holds("81-5", unevictable=3, used=1, snp=2)
    assert left(seen, before) == [
        "VM 81-5 (process and fd that made it)",
        "3 pages in guest_memfds",
        "3 pages that nobody has, with a reference left (a pin on a source, a folio not put)",
        "1 2 MiB huge pages",
        "2 references to KVM's modules (a VM, a vCPU or a file that lives on)",
        "2 SEV-ES and SNP ASIDs",
    ]


def test_memory_of_the_process_is_no_leak(kernel: Kernel, seen: HeldByKernel) -> None:
    before = seen.snapshot()
    kernel.holds(anon=400)
    assert left(seen, before) == []


def test_what_goes_in_a_moment_is_waited_for(
    kernel: Kernel, seen: HeldByKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen.snapshot()
    kernel.holds("81-5")
    monkeypatch.setattr("kvmharness.suite.held.time.sleep", lambda seconds: kernel.holds())
    now, kept = seen.left_since(before)
    assert not kept
    assert now == before


def test_what_a_wider_fixture_holds_is_added(kernel: Kernel, seen: HeldByKernel) -> None:
    before = seen.snapshot()
    kernel.holds("81-5", unevictable=1)
    wider = seen.snapshot() - before
    assert left(seen, before + wider) == []
    assert left(seen, before) != []


def test_a_key_left_on_purpose_is_no_tests_fault(kernel: Kernel, seen: HeldByKernel) -> None:
    before = seen.snapshot()
    kernel.holds(snp=2)
    assert left(seen, before + kept_keys(1)) == ["1 SEV-ES and SNP ASIDs"]
    assert left(seen, before + kept_keys(2)) == []


def test_a_host_without_cgroups_is_not_watched(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "_CGROUPS", tmp_path / "none")
    assert HeldByKernel.open() is None


def test_what_each_repeat_leaves_is_told_and_what_is_kept_once_is_not(
    kernel: Kernel, seen: HeldByKernel
) -> None:
    allocated, objects = 8 << 20, 100
    lost: Iterator[int] = iter(())

    def action() -> None:
        nonlocal allocated, objects
        gone = next(lost, 0)
        allocated += gone
        objects += bool(gone)
        kernel.allocates(allocated, objects)

    assert seen.left_by_each(action, 200) == []
    lost = itertools.repeat(96)
    told = ["96.0 bytes of kernel memory", "1.0 objects of kmalloc-96"]
    assert seen.left_by_each(action, 200) == told
    lost = itertools.repeat(1024, 8 + 200)  # through the first round alone
    assert seen.left_by_each(action, 200) == []
