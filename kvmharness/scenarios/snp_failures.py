# SPDX-License-Identifier: MIT
"""Each call of an SNP launch that can fail, failing: commands of the firmware, and the RMP.

A table: at which stage of the launch, which call of KVM's, and how. Each row is a scenario,
``snp.failure.STAGE_CALL_HOW`` (failures.py).
"""

from __future__ import annotations

import functools
from errno import EBUSY, EFAULT

from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import Snp
from kvmharness.scenarios.failures import Case, Kind, fail
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario
from kvmharness.scenarios.snp_stages import SnpLaunch
from kvmharness.scenarios.staged_launch import PAGES
from kvmharness.standins import proc
from kvmharness.standins import snp as standin
from kvmharness.standins.snp import Failure, FirmwareCall

_RESOURCE_LIMIT = 0x17
#: How a firmware's command fails: the firmware says so; or its driver, which has given it up.
_FAILED = _RESOURCE_LIMIT
_BUSY = -EBUSY
#: What the kernel's functions return where RMPUPDATE fails, or an entry can't be read.
_RMP_FAULT = -EFAULT
#: An emulated host has 31 for SNP.
_MORE_THAN_ASIDS = 36


_Case = functools.partial(Case[Failure], "snp")


def _command(stage: str, label: str, call: FirmwareCall, after: int = 0) -> list[Case[Failure]]:
    """A firmware command that fails, and one that its driver does not give it."""
    return [
        _Case(stage, label, how, (Failure(call, result, after),))
        for how, result in (("failed", _FAILED), ("busy", _BUSY))
    ]


def _rmp(stage: str, label: str, call: FirmwareCall, after: int = 0) -> Case[Failure]:
    """A change of the RMP, or a look at it, that fails."""
    return _Case(stage, label, "failed", (Failure(call, _RMP_FAULT, after),))


def _undo(stage: str, label: str, first: Failure, undo: FirmwareCall) -> list[Case[Failure]]:
    """A call that fails, and the command that would undo what came before it."""
    return [
        _Case(stage, label, how, (first, Failure(undo, result)))
        for how, result in (("failed", _FAILED), ("busy", _BUSY))
    ]


_CASES: tuple[Case[Failure], ...] = (
    *_command("init2", "platform_init", FirmwareCall.PLATFORM_INIT),
    _rmp("init2", "firmware_page", FirmwareCall.ALLOC_FIRMWARE_PAGE),
    _rmp("start", "firmware_page", FirmwareCall.ALLOC_FIRMWARE_PAGE),
    *_command("start", "gctx_create", FirmwareCall.SNP_GCTX_CREATE),
    *_command("start", "launch_start", FirmwareCall.SNP_LAUNCH_START),
    *_command("start", "activate", FirmwareCall.SNP_ACTIVATE),
    *_undo(
        "start",
        "gctx_create_and_reclaim",
        Failure(FirmwareCall.SNP_GCTX_CREATE, _FAILED),
        FirmwareCall.SNP_PAGE_RECLAIM,
    ),
    *_undo(
        "start",
        "launch_start_and_decommission",
        Failure(FirmwareCall.SNP_LAUNCH_START, _FAILED),
        FirmwareCall.SNP_DECOMMISSION,
    ),
    *_undo(
        "start",
        "activate_and_decommission",
        Failure(FirmwareCall.SNP_ACTIVATE, _FAILED),
        FirmwareCall.SNP_DECOMMISSION,
    ),
    *_command("update", "launch_update", FirmwareCall.SNP_LAUNCH_UPDATE),
    *_command("update", "launch_update_3", FirmwareCall.SNP_LAUNCH_UPDATE, 2),
    _rmp("update", "make_private", FirmwareCall.RMP_MAKE_PRIVATE),
    _rmp("update", "make_private_3", FirmwareCall.RMP_MAKE_PRIVATE, 2),
    _rmp("update", "lookup", FirmwareCall.LOOKUP_RMPENTRY),
    _rmp("update", "lookup_3", FirmwareCall.LOOKUP_RMPENTRY, 2),
    *_command("finish", "vmsa", FirmwareCall.SNP_LAUNCH_UPDATE),
    *_command("finish", "vmsa_2", FirmwareCall.SNP_LAUNCH_UPDATE, 1),
    _rmp("finish", "make_private", FirmwareCall.RMP_MAKE_PRIVATE),
    _rmp("finish", "make_private_2", FirmwareCall.RMP_MAKE_PRIVATE, 1),
    *_command("finish", "launch_finish", FirmwareCall.SNP_LAUNCH_FINISH),
    _rmp("prefault", "lookup", FirmwareCall.LOOKUP_RMPENTRY),
    _rmp("prefault", "make_private", FirmwareCall.RMP_MAKE_PRIVATE),
    _rmp("punch", "make_shared", FirmwareCall.RMP_MAKE_SHARED),
    _rmp("punch", "lookup", FirmwareCall.LOOKUP_RMPENTRY),
    # guest_memfd's pages go first: three populated ones and the one that was pre-faulted.
    _rmp("close", "page_lookup", FirmwareCall.LOOKUP_RMPENTRY),
    _rmp("close", "page_make_shared", FirmwareCall.RMP_MAKE_SHARED),
    _rmp("close", "vmsa_make_shared", FirmwareCall.RMP_MAKE_SHARED, PAGES),
    _rmp("close", "vmsa_2_make_shared", FirmwareCall.RMP_MAKE_SHARED, PAGES + 1),
    *_command("close", "reclaim", FirmwareCall.SNP_PAGE_RECLAIM),
    *_command("close", "reclaim_2", FirmwareCall.SNP_PAGE_RECLAIM, 1),
    *_command("close", "decommission", FirmwareCall.SNP_DECOMMISSION),
)


def _held() -> dict[str, int]:
    """What the stand-in holds for guests: pages by state, and ASIDs."""
    state = standin.read_state()
    return {**proc.counts_of(state, "rmp_"), "asids": int(state["asids"])}


_KIND = Kind(standin, _held, "prefault", keys="asids", keys_are="ASIDs", guest_is="guest")


def _fail(bench: SnpBench, case: Case[Failure]) -> None:
    vcpus = {"prefault": 1, "punch": 1, "finish": 2, "close": 2}.get(case.stage, 0)
    fail(bench, case, _KIND, lambda: SnpLaunch(bench, vcpus), lambda: SnpLaunch(bench, 0))


@snp_scenario(
    "snp.failure.init2_repeated", "INIT2 fails more often than there are ASIDs, then not", "standin"
)
def _init2_repeated(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    standin.inject(Failure(FirmwareCall.PLATFORM_INIT, _FAILED, times=_MORE_THAN_ASIDS))
    bench.tally("INIT2", [machine.try_.snp.init2() for _ in range(_MORE_THAN_ASIDS)])
    bench.step("INIT2 again", machine.try_.snp.init2())


def _df_flush(bench: SnpBench, result: int) -> None:
    """ASIDs that guests gave back are flushed when no other is left: with INIT2 of one of these."""
    standin.inject(Failure(FirmwareCall.SNP_DF_FLUSH, result))
    struck = standin.struck()
    sev_fd = bench.make(initialized=False).snp.sev_fd
    for _ in range(_MORE_THAN_ASIDS):
        with bench.kvm.create_vm(VmType.SNP) as vm:
            call = Snp(vm, sev_fd).try_.init2()
            if standin.struck() != struck:
                bench.step("INIT2", call)
                bench.step("INIT2 again", Snp(vm, sev_fd).try_.init2())
                return


for _how, _result in (("failed", _FAILED), ("busy", _BUSY)):
    snp_scenario(
        "_".join(("snp.failure.init2", "df_flush", _how)),
        f"INIT2 that needs a DF_FLUSH, {_how}",
        "standin",
    )(functools.partial(_df_flush, result=_result))


for _case in _CASES:
    snp_scenario(_case.id, _case.summary, "standin")(functools.partial(_fail, case=_case))
