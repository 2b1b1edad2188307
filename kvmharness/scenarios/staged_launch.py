# SPDX-License-Identifier: MIT
"""A launch stage by stage, for scenarios in which one of the stages goes wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine.machine import Machine
from kvmharness.scenarios.populate_bench import PopulateBench
from kvmharness.scenarios.step import Call

#: Pages that are populated, from gfn 0, and the gfn of the one that is pre-faulted.
PAGES = 4
PRE_FAULTED = 8


class StagedLaunch(ABC):
    """A guest on its way; each stage gives the step that it makes."""

    def __init__(self, bench: PopulateBench, machine: Machine) -> None:
        self._bench = bench
        self.machine = machine
        machine.set_private(0, PAGES * PAGE_SIZE)
        machine.set_private(PRE_FAULTED * PAGE_SIZE, PAGE_SIZE)
        self.source = bench.source("aligned", PAGES)
        self.populated = 0
        self.made: list[str] = []
        self._stages = {**self.stages(), "punch": self._punch}

    @abstractmethod
    def stages(self) -> Mapping[str, Callable[[], Call]]:
        """What a launch does, in its order, up to where a page is punched out."""

    def reach(self, stage: str) -> bool:
        """Go through what precedes `stage`, and say whether all of it succeeded."""
        for name in self._stages:
            if name == stage:
                break
            if name not in self.made:
                call = self.go(name)
                if not call.ok or call.left:
                    return False
        return True

    def go(self, stage: str) -> Call:
        """Do a stage."""
        call = self._stages[stage]()
        if call.ok:
            self.was_made(stage)
        return call

    def was_made(self, stage: str) -> None:
        """Take a stage for done."""
        self.made.append(stage)

    def populate(self) -> Call:
        """Populate what is not populated yet."""
        done = self.populated
        address = self.source.address + done * PAGE_SIZE
        call = self._bench.populate(done, PAGES - done, address, record=False)
        self.populated += call.done or 0
        return call

    def pre_fault(self) -> Call:
        """Pre-fault the page at PRE_FAULTED."""
        vcpu = self.machine.vcpus[0]
        result = vcpu.try_.pre_fault_memory(PRE_FAULTED * PAGE_SIZE, PAGE_SIZE)
        return Call.of("KVM_PRE_FAULT_MEMORY", result)

    def _punch(self) -> Call:
        guest_memfd = self.machine.slots[0].guest_memfd
        assert guest_memfd is not None
        return Call.of("punch", guest_memfd.try_.punch_hole(0, PAGE_SIZE))
