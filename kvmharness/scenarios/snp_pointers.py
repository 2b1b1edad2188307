# SPDX-License-Identifier: MIT
"""Each pointer that an SNP launch gives to KVM: not there, there by half, not to be written.

``snp.pointer.STAGE_WHAT_HOW``: the stage with that pointer, the same with a good one, and whether
the launch goes on from there.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.result import Result
from kvmharness.launch.sev import DEFAULT_POLICY, PageType
from kvmharness.scenarios.placed import BAD, HALF, READONLY, placed
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario
from kvmharness.scenarios.snp_stages import SnpLaunch
from kvmharness.scenarios.staged_launch import PAGES
from kvmharness.scenarios.step import Call

_ID_BLOCK_BYTES, _ID_AUTH_BYTES = 96, 4096


@dataclass(frozen=True)
class _Case:
    """`what` of a stage's command lies where `how` says."""

    stage: str
    what: str
    how: str

    @property
    def id(self) -> str:
        return f"snp.pointer.{self.stage}_{self.what}_{self.how}"

    @property
    def summary(self) -> str:
        where = {BAD: "is not there", HALF: "ends too early", READONLY: "can't be written"}
        what = {"struct": "parameters", "command": "command itself"}.get(self.what, self.what)
        return f"{self.stage}: the {what} {where[self.how]}"


_CASES = (
    *(
        _Case(stage, what, how)
        for stage in ("init2", "start", "update", "finish")
        for what in ("struct", "command")
        for how in (BAD, HALF, READONLY)
    ),
    *(_Case("finish", what, how) for what in ("id_block", "id_auth") for how in (BAD, HALF)),
    _Case("start", "sev_fd", BAD),
    _Case("update", "sev_fd", BAD),
    _Case("finish", "sev_fd", BAD),
)


class _Commands:
    """The stages' commands, as bytes that lie anywhere."""

    def __init__(self, launch: SnpLaunch) -> None:
        self._launch = launch
        self._machine = launch.machine

    def number(self, stage: str) -> int:
        """The sub-command's."""
        return int(
            {
                "init2": lib.KVM_SEV_INIT2,
                "start": lib.KVM_SEV_SNP_LAUNCH_START,
                "update": lib.KVM_SEV_SNP_LAUNCH_UPDATE,
                "finish": lib.KVM_SEV_SNP_LAUNCH_FINISH,
            }[stage]
        )

    def parameters(self, stage: str, **more: int) -> Any:
        """The struct of a good command."""
        if stage == "init2":
            return make("struct kvm_sev_init *", **more)
        if stage == "start":
            return make("struct kvm_sev_snp_launch_start *", policy=int(DEFAULT_POLICY), **more)
        if stage == "finish":
            return make("struct kvm_sev_snp_launch_finish *", **more)
        return make(
            "struct kvm_sev_snp_launch_update *",
            gfn_start=0,
            uaddr=self._launch.source.address,
            len=PAGES * PAGE_SIZE,
            type=int(PageType.NORMAL),
            **more,
        )

    def struct_at(self, stage: str, how: str) -> Result[int]:
        """A good command whose parameters lie where `how` says."""
        with placed(bytes(ffi.buffer(self.parameters(stage))), how) as address:
            return self._machine.try_.snp.raw_command(self.number(stage), address)

    def command_at(self, stage: str, how: str) -> Result[int]:
        """A good command which lies itself where `how` says."""
        parameters = self.parameters(stage)
        command = make(
            "struct kvm_sev_cmd *",
            id=self.number(stage),
            data=int(ffi.cast("uintptr_t", parameters)),
            sev_fd=self._machine.snp.sev_fd,
        )
        with placed(bytes(ffi.buffer(command)), how) as address:
            return raw_ioctl(self._machine, "KVM_MEMORY_ENCRYPT_OP", address)

    def blob_at(self, stage: str, what: str, how: str) -> Result[int]:
        """FINISH with an ID block of which `what` lies where `how` says."""
        sizes = {"id_block": _ID_BLOCK_BYTES, "id_auth": _ID_AUTH_BYTES}
        good = {name: ffi.new("char[]", size) for name, size in sizes.items()}
        with placed(bytes(sizes[what]), how) as address:
            addresses = {
                f"{name}_uaddr": address if name == what else int(ffi.cast("uintptr_t", blob))
                for name, blob in good.items()
            }
            parameters = self.parameters(stage, id_block_en=1, **addresses)
            where = int(ffi.cast("uintptr_t", parameters))
            return self._machine.try_.snp.raw_command(self.number(stage), where)

    def without_sev_fd(self, stage: str) -> Result[int]:
        """A good command with an fd that is not /dev/sev's."""
        parameters = self.parameters(stage)
        with open(os.devnull, "rb") as other:
            command = make(
                "struct kvm_sev_cmd *",
                id=self.number(stage),
                data=int(ffi.cast("uintptr_t", parameters)),
                sev_fd=other.fileno(),
            )
            return raw_ioctl(self._machine, "KVM_MEMORY_ENCRYPT_OP", command)


def _try(bench: SnpBench, case: _Case) -> None:
    launch = SnpLaunch(bench, 1)
    commands = _Commands(launch)
    launch.reach(case.stage)
    if case.stage == "finish":
        launch.make_vcpus()
    if case.what == "struct":
        result = commands.struct_at(case.stage, case.how)
    elif case.what == "command":
        result = commands.command_at(case.stage, case.how)
    elif case.what == "sev_fd":
        result = commands.without_sev_fd(case.stage)
    else:
        result = commands.blob_at(case.stage, case.what, case.how)
    bench.outcome.steps.append(Call.of(case.id, result))
    if result.ok:
        launch.was_made(case.stage)
    guest = {name: count for name, count in (bench.page_counts() or {}).items() if count}
    bench.fact("pages of the guest", guest.get("guest_valid", 0), str(guest))
    bench.outcome.steps.append(launch.go(case.stage))
    complete = launch.reach("prefault") and bench.digest_is_right()
    bench.forget_digest()
    bench.fact("the launch", "complete" if complete else "incomplete")


for _case in _CASES:
    snp_scenario(_case.id, _case.summary, "standin")(functools.partial(_try, case=_case))
