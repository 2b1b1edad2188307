# SPDX-License-Identifier: MIT
"""An SNP launch stage by stage, for scenarios in which one of the stages goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result
from kvmharness.scenarios.snp_bench import SnpBench
from kvmharness.scenarios.step import Call
from kvmharness.standins import proc
from kvmharness.standins import snp as standin

#: Pages that are populated, from gfn 0, and the gfn of the one that is pre-faulted.
PAGES = 4
PRE_FAULTED = 8
#: Seconds after which what a guest has left behind counts as left.
_SETTLED = 0.05


class SnpLaunch:
    """A guest on its way, stage by stage; each gives the step that it makes."""

    def __init__(self, bench: SnpBench, vcpus: int) -> None:
        self.bench = bench
        self.machine = bench.make(initialized=False)
        self.machine.set_private(0, PAGES * PAGE_SIZE)
        self.machine.set_private(PRE_FAULTED * PAGE_SIZE, PAGE_SIZE)
        self.source = bench.source("aligned", PAGES)
        self.vcpus = vcpus
        self.populated = 0
        self.made: list[str] = []
        self._stages: dict[str, Callable[[], Call]] = {
            "init2": lambda: self._call("KVM_SEV_INIT2", self.machine.try_.snp.init2()),
            "start": self._start,
            "update": self._update,
            "finish": self._finish,
            "prefault": self._pre_fault,
            "punch": self._punch,
        }

    def reach(self, stage: str) -> bool:
        """Go through what precedes `stage`, and say whether all of it succeeded."""
        for name in self._stages:
            if name == stage:
                break
            if name not in self.made:
                if not self.go(name).ok:
                    return False
                if name == "update" and self.populated < PAGES:
                    return False
        return True

    def go(self, stage: str) -> Call:
        """Do a stage."""
        if stage == "finish":
            self.make_vcpus()
        call = self._stages[stage]()
        if call.ok:
            self.was_made(stage)
        return call

    def was_made(self, stage: str) -> None:
        """Take a stage for done."""
        self.made.append(stage)
        if stage == "start":
            self.bench.begin_digest()

    def make_vcpus(self) -> None:
        """Create the vCPUs, if they are not there."""
        for number in range(len(self.machine.vcpus), self.vcpus):
            vcpu = self.machine.create_vcpu(number)
            self.machine.vcpus.append(vcpu)
            self.machine.own(vcpu)

    def _call(self, label: str, result: Result[int]) -> Call:
        return Call.of(label, result)

    def _start(self) -> Call:
        return self._call("LAUNCH_START", self.machine.try_.snp.launch_start())

    def _update(self) -> Call:
        done = self.populated
        address = self.source.address + done * PAGE_SIZE
        call = self.bench.populate(done, PAGES - done, address, record=False)
        self.populated += call.done or 0
        return call

    def _finish(self) -> Call:
        return self._call("LAUNCH_FINISH", self.machine.try_.snp.launch_finish())

    def _pre_fault(self) -> Call:
        vcpu = self.machine.vcpus[0]
        result = vcpu.try_.pre_fault_memory(PRE_FAULTED * PAGE_SIZE, PAGE_SIZE)
        if result.ok:
            self.bench.wants_faulted(PRE_FAULTED * PAGE_SIZE)
        return self._call("KVM_PRE_FAULT_MEMORY", result)

    def _punch(self) -> Call:
        guest_memfd = self.machine.slots[0].guest_memfd
        assert guest_memfd is not None
        return self._call("punch", guest_memfd.try_.punch_hole(0, PAGE_SIZE))


def held() -> dict[str, int]:
    """What the stand-in holds for guests: pages by state, and ASIDs."""
    state = standin.read_state()
    return {**proc.counts_of(state, "rmp_"), "asids": int(state["asids"])}


def left_since(before: dict[str, int]) -> dict[str, int]:
    """Wait until all is as before, or what is left stays; return how much more there is."""
    seen, since = held(), time.monotonic()
    while seen != before and time.monotonic() - since < _SETTLED:
        time.sleep(0.01)
        if (now := held()) != seen:
            seen, since = now, time.monotonic()
    return {name: count - before.get(name, 0) for name, count in seen.items()}
