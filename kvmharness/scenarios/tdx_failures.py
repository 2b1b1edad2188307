# SPDX-License-Identifier: MIT
"""Each SEAMCALL of a TD's life failing: busy once, refused once, its undo and the teardown too.

A table: at which stage of the launch, which leaf, and how. Each row is a scenario,
``tdx.failure.STAGE_LEAF_HOW`` (failures.py).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from kvmharness.launch.tdx_status import status_code
from kvmharness.scenarios.failures import Case, Kind, fail
from kvmharness.scenarios.staged_launch import StagedLaunch
from kvmharness.scenarios.step import Call
from kvmharness.scenarios.tdx_bench import TdxBench, tdx_scenario
from kvmharness.standins import tdx as tdx_standin
from kvmharness.standins.tdx import Failure, Seamcall

_BUSY = status_code("OPERAND_BUSY", "TDR")
_FAILED = status_code("PAGE_METADATA_INCORRECT", "RCX")
_INTERRUPTED = status_code("INTERRUPTED_RESUMABLE")


_Case = functools.partial(Case[Failure], "tdx")


def _leaf(stage: str, label: str, leaf: Seamcall, after: int = 0) -> list[Case[Failure]]:
    """A leaf that is refused, and one that finds the module busy."""
    return [
        _Case(stage, label, how, (Failure(leaf, status, after),))
        for how, status in (("failed", _FAILED), ("busy", _BUSY))
    ]


def _one(
    stage: str, label: str, how: str, leaf: Seamcall, status: int, after: int = 0, times: int = 1
) -> Case[Failure]:
    return _Case(stage, label, how, (Failure(leaf, status, after, times),))


def _undo(label: str, undo: Seamcall, after: int = 0) -> list[Case[Failure]]:
    """INIT_VM fails at its last step, and one of those that take back what came before."""
    first = Failure(Seamcall.MNG_INIT, _FAILED)
    return [
        _Case("init_vm", label, how, (first, Failure(undo, status, after)))
        for how, status in (("failed", _FAILED), ("busy", _BUSY))
    ]


_CASES: tuple[Case[Failure], ...] = (
    _one("init_vm", "keyid", "failed", Seamcall.KEYID_ALLOC, 0),
    *_leaf("init_vm", "mng_create", Seamcall.MNG_CREATE),
    *_leaf("init_vm", "key_config", Seamcall.MNG_KEY_CONFIG),
    *_leaf("init_vm", "addcx", Seamcall.MNG_ADDCX),
    *_leaf("init_vm", "addcx_3", Seamcall.MNG_ADDCX, 2),
    *_leaf("init_vm", "mng_init", Seamcall.MNG_INIT),
    *_leaf("init_vm", "mng_rd", Seamcall.MNG_RD),
    *_leaf("init_vm", "mng_rd_2", Seamcall.MNG_RD, 1),
    *_undo("mng_init_and_vpflushdone", Seamcall.MNG_VPFLUSHDONE),
    *_undo("mng_init_and_cache_wb", Seamcall.PHYMEM_CACHE_WB),
    *_undo("mng_init_and_key_freeid", Seamcall.MNG_KEY_FREEID),
    *_undo("mng_init_and_reclaim", Seamcall.PHYMEM_PAGE_RECLAIM),
    *_undo("mng_init_and_reclaim_tdr", Seamcall.PHYMEM_PAGE_RECLAIM, 6),
    *_undo("mng_init_and_wbinvd", Seamcall.PHYMEM_PAGE_WBINVD),
    *_leaf("get_cpuid", "mng_rd", Seamcall.MNG_RD),
    *_leaf("get_cpuid", "mng_rd_2", Seamcall.MNG_RD, 1),
    *_leaf("init_vcpu", "vp_create", Seamcall.VP_CREATE),
    *_leaf("init_vcpu", "vp_addcx", Seamcall.VP_ADDCX),
    *_leaf("init_vcpu", "vp_addcx_3", Seamcall.VP_ADDCX, 2),
    *_leaf("init_vcpu", "vp_init", Seamcall.VP_INIT),
    *_leaf("init_vcpu", "vp_wr", Seamcall.VP_WR),
    *_leaf("init_vcpu", "vp_wr_3", Seamcall.VP_WR, 2),
    *_leaf("region", "sept_add", Seamcall.MEM_SEPT_ADD),
    *_leaf("region", "sept_add_3", Seamcall.MEM_SEPT_ADD, 2),
    *_leaf("region", "page_add", Seamcall.MEM_PAGE_ADD),
    *_leaf("region", "page_add_3", Seamcall.MEM_PAGE_ADD, 2),
    *_leaf("region", "extend", Seamcall.MR_EXTEND),
    *_leaf("region", "extend_3", Seamcall.MR_EXTEND, 2 * 16 + 15),
    *_leaf("finalize", "mr_finalize", Seamcall.MR_FINALIZE),
    *_leaf("prefault", "page_aug", Seamcall.MEM_PAGE_AUG),
    *_leaf("punch", "range_block", Seamcall.MEM_RANGE_BLOCK),
    *_leaf("punch", "track", Seamcall.MEM_TRACK),
    *_leaf("punch", "page_remove", Seamcall.MEM_PAGE_REMOVE),
    *_leaf("punch", "wbinvd", Seamcall.PHYMEM_PAGE_WBINVD),
    *(
        _one("punch", label, "busy_twice", leaf, _BUSY, times=2)
        for label, leaf in (
            ("range_block", Seamcall.MEM_RANGE_BLOCK),
            ("track", Seamcall.MEM_TRACK),
            ("page_remove", Seamcall.MEM_PAGE_REMOVE),
        )
    ),
    *_leaf("close", "range_block", Seamcall.MEM_RANGE_BLOCK),
    *_leaf("close", "page_remove", Seamcall.MEM_PAGE_REMOVE),
    *_leaf("close", "vp_flush", Seamcall.VP_FLUSH),
    *_leaf("close", "vpflushdone", Seamcall.MNG_VPFLUSHDONE),
    *_leaf("close", "cache_wb", Seamcall.PHYMEM_CACHE_WB),
    _one("close", "cache_wb", "interrupted", Seamcall.PHYMEM_CACHE_WB, _INTERRUPTED, times=3),
    *_leaf("close", "key_freeid", Seamcall.MNG_KEY_FREEID),
    *_leaf("close", "page_reclaim", Seamcall.PHYMEM_PAGE_RECLAIM),
    *_leaf("close", "page_reclaim_3", Seamcall.PHYMEM_PAGE_RECLAIM, 2),
    *_leaf("close", "wbinvd", Seamcall.PHYMEM_PAGE_WBINVD),
)


class _Launch(StagedLaunch):
    """A TD on its way."""

    def __init__(self, bench: TdxBench) -> None:
        machine = bench.make(initialized=False, vcpus=0)
        machine.enable_split_irqchip()
        super().__init__(bench, machine)
        self.bench = bench
        self.cpuid = bench.cpuid_of_td(machine)

    def stages(self) -> Mapping[str, Callable[[], Call]]:
        """What a TD's launch does, in its order."""
        return {
            "init_vm": self._init_vm,
            "get_cpuid": self._get_cpuid,
            "init_vcpu": self._init_vcpu,
            "region": self.populate,
            "finalize": self._finalize,
            "prefault": self.pre_fault,
        }

    def reach(self, stage: str) -> bool:
        """Go through what precedes `stage`, and say whether all of it succeeded."""
        reached = super().reach(stage)
        return reached and (stage not in ("get_cpuid", "init_vcpu") or self._has_vcpu())

    def _init_vm(self) -> Call:
        result = self.machine.try_.tdx.init_vm(cpuid=self.cpuid)
        if result.ok:
            self.bench.begin_digest()
        return Call.of("INIT_VM", result)

    def _has_vcpu(self) -> bool:
        if not self.machine.vcpus:
            created = self.machine.try_.create_vcpu(0)
            if created.value is None:
                return False
            self.machine.vcpus.append(created.value)
            self.machine.own(created.value)
            self.machine.tdx_vcpu().set_cpuid_of_td()
        return True

    def _get_cpuid(self) -> Call:
        self._has_vcpu()
        return Call.of("GET_CPUID", self.machine.tdx_vcpu().try_.get_cpuid())

    def _init_vcpu(self) -> Call:
        self._has_vcpu()
        return Call.of("INIT_VCPU", self.machine.tdx_vcpu().try_.init_vcpu())

    def _finalize(self) -> Call:
        return Call.of("FINALIZE_VM", self.machine.try_.tdx.finalize_vm())


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """Keep this thread where it is.

    A vCPU whose thread moves while KVM_TDX_INIT_VCPU is under way can end its VM
    (docs/findings.md), and what KVM logs of a failure takes long enough for that.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _held() -> dict[str, int]:
    """What the module holds for TDs: pages by type, and keys."""
    return tdx_standin.page_counts() or {}


_KIND = Kind(tdx_standin, _held, "punch", keys="keyids", keys_are="keys", guest_is="TD")


def _fail(bench: TdxBench, case: Case[Failure]) -> None:
    bench.stack.enter_context(_on_one_processor())
    fail(bench, case, _KIND, lambda: _Launch(bench), lambda: _Launch(bench))


for _case in _CASES:
    tdx_scenario(_case.id, _case.summary, "standin")(functools.partial(_fail, case=_case))
