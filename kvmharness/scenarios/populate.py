# SPDX-License-Identifier: MIT
"""What SNP and TDX populate alike: from which source, and a guest_memfd in place of one.

Each scenario here is two, ``snp.`` and ``tdx.`` with the same case; populate_ranges.py and
populate_races.py have more of them. A bench's populate() is LAUNCH_UPDATE of a NORMAL page or
INIT_MEM_REGION of a measured one. What each gives on which kernel is in contract/*.toml.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios.needs import Need
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench
from kvmharness.scenarios.scenario import Scenario, register
from kvmharness.scenarios.snp_bench import SnpBench
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.tdx_bench import TdxBench

Action = Callable[[PopulateBench], None]


def populate_scenario(case: str, summary: str, *needs: Need) -> Callable[[Action], Action]:
    """Declare `case` (``source.wraps``) of SNP and of TDX: a decorator for what does it."""

    def declare(action: Action) -> Action:
        register(Scenario(f"snp.{case}", VmType.SNP, summary, action, SnpBench, needs))
        register(Scenario(f"tdx.{case}", VmType.TDX, summary, action, TdxBench, needs))
        return action

    return declare


# ------------------------------------------------------------------ sources


def _try_source(bench: PopulateBench, kind: str) -> None:
    bench.populate_on(0, 4, bench.source(kind, 4))


# The kinds' names, which end the ids, stand in sources.py.
for _kind in SOURCE_KINDS.values():
    populate_scenario(f"source.{_kind.name}", f"measured pages from {_kind.summary}", *_kind.needs)(
        functools.partial(_try_source, kind=_kind.name)
    )


@populate_scenario("source.wraps", "a source that runs past the end of the address space")
def _source_wraps(bench: PopulateBench) -> None:
    bench.populate(0, 2, (1 << 64) - PAGE_SIZE)


@populate_scenario("source.changed_after", "the source changes after the call", "standin")
def _source_changed_after(bench: PopulateBench) -> None:
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    before = bench.launch_digest()
    source.mapping.fill(0, PAGE_SIZE, 0xFF)
    bench.fact("the launch digest", "same" if bench.launch_digest() == before else "changed")


# ------------------------------------------------------------------ in place


@populate_scenario(
    "inplace.same_guest_memfd",
    "a guest_memfd of the VM, mapped, as the source of itself",
    "mappable_guest_memfd",
)
def _inplace_same_guest_memfd(bench: PopulateBench) -> None:
    machine = bench.machine
    created = bench.keep(machine.try_.create_guest_memfd(2 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_MMAP))
    bench.step("KVM_CREATE_GUEST_MEMFD with MMAP", created)
    if created.value is None:
        return
    mapping = bench.stack.enter_context(created.value.mmap())
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region2(
        1, gpa, 2 * PAGE_SIZE, mapping.address, lib.KVM_MEM_GUEST_MEMFD, created.value
    )
    machine.set_private(gpa, 2 * PAGE_SIZE)
    bench.populate(SLOT_PAGES, 2, mapping.address)


@populate_scenario("inplace.null_source", "NULL as the source of a range never written")
def _inplace_null_source(bench: PopulateBench) -> None:
    bench.populate(0, 2, None)
    bench.populate(0, 2, bench.source("aligned", 2))


@populate_scenario(
    "inplace.init_shared",
    "a guest_memfd of a confidential VM that begins shared",
    "mappable_guest_memfd",
)
def _inplace_init_shared(bench: PopulateBench) -> None:
    flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
    created = bench.machine.try_.create_guest_memfd(2 * PAGE_SIZE, flags)
    bench.step("KVM_CREATE_GUEST_MEMFD with INIT_SHARED", bench.keep(created))


@populate_scenario(
    "inplace.attributes2", "KVM_SET_MEMORY_ATTRIBUTES2 on the VM's guest_memfd (queued for 7.4)"
)
def _inplace_attributes2(bench: PopulateBench) -> None:
    private = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
    result = bench.guest_memfd.try_.set_memory_attributes2(0, PAGE_SIZE, private)
    bench.step("KVM_SET_MEMORY_ATTRIBUTES2", result)


# ------------------------------------------------------------------ pre-fault


def pre_fault(bench: PopulateBench, *, finished: bool) -> None:
    """Pre-fault four pages, of which two are populated, before or after the launch's end."""
    bench.first_vcpu()
    bench.populate(0, 2, bench.source("aligned", 2))
    if finished:
        bench.finish()
    bench.pre_fault(0, 4)
    if not finished:
        bench.populate(2, 2, bench.source("aligned", 2))
