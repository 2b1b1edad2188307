# SPDX-License-Identifier: MIT
"""An SNP launch stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.scenarios.snp_bench import SnpBench
from kvmharness.scenarios.staged_launch import PRE_FAULTED, StagedLaunch
from kvmharness.scenarios.step import Call


class SnpLaunch(StagedLaunch):
    """A guest on its way, with so many vCPUs."""

    def __init__(self, bench: SnpBench, vcpus: int) -> None:
        super().__init__(bench, bench.make(initialized=False))
        self.bench = bench
        self.vcpus = vcpus

    def stages(self) -> Mapping[str, Callable[[], Call]]:
        """What an SNP launch does, in its order."""
        return {
            "init2": lambda: Call.of("KVM_SEV_INIT2", self.machine.try_.snp.init2()),
            "start": lambda: Call.of("LAUNCH_START", self.machine.try_.snp.launch_start()),
            "update": self.populate,
            "finish": self._finish,
            "prefault": self.pre_fault,
        }

    def was_made(self, stage: str) -> None:
        """Take a stage for done."""
        super().was_made(stage)
        if stage == "start":
            self.bench.begin_digest()

    def make_vcpus(self) -> None:
        """Create the vCPUs, if they are not there."""
        for number in range(len(self.machine.vcpus), self.vcpus):
            vcpu = self.machine.create_vcpu(number)
            self.machine.vcpus.append(vcpu)
            self.machine.own(vcpu)

    def pre_fault(self) -> Call:
        """Pre-fault the page at PRE_FAULTED."""
        call = super().pre_fault()
        if call.ok:
            self.bench.wants_faulted(PRE_FAULTED * PAGE_SIZE)
        return call

    def _finish(self) -> Call:
        self.make_vcpus()
        return Call.of("LAUNCH_FINISH", self.machine.try_.snp.launch_finish())
