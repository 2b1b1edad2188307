# SPDX-License-Identifier: MIT
"""Where SNP scenarios work: a VM of 64 private pages whose launch has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvmharness.kvm.mapping import PAGE_SIZE, guarded_read
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import DEFAULT_POLICY, PageType
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure.snp import LaunchDigest
from kvmharness.scenarios.needs import Need
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench, Source, address_of
from kvmharness.scenarios.scenario import Scenario, register
from kvmharness.scenarios.step import Call
from kvmharness.standins import snp as standin

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


class SnpBench(PopulateBench):
    """A PopulateBench whose machine is an SNP VM."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._digest: LaunchDigest | None = None
        self._vcpu: Vcpu | None = None
        self._measured_vmsas = False
        self.stack.callback(standin.clear_injection)

    def make(self, *, initialized: bool = True) -> Machine:
        """Make the VM without attributes and without a start, for scenarios about what precedes."""
        builder = VmBuilder(self.kvm, VmType.SNP).guest_memfd(0, SLOT_PAGES * PAGE_SIZE)
        if not initialized:
            builder.uninitialized()
        self._machine = self.stack.enter_context(builder.build())
        return self._machine

    def make_ready(self) -> Machine:
        """Make the VM with its pages private and its launch started; the digest is followed."""
        machine = self.make()
        machine.set_private(0, SLOT_PAGES * PAGE_SIZE)
        machine.snp.launch_start(DEFAULT_POLICY)
        self._digest = LaunchDigest()
        return machine

    def make_without_attributes(self) -> Machine:
        """Make the VM and start its launch."""
        machine = self.make()
        machine.snp.launch_start(DEFAULT_POLICY)
        return machine

    def first_vcpu(self) -> Vcpu:
        """The VM's first vCPU, made when it is first used."""
        if self._vcpu is None:
            self._vcpu = self.vcpu().unwrap()
        return self._vcpu

    def populate(
        self,
        gfn: int,
        pages: int,
        source: Source,
        type: int = PageType.NORMAL,  # noqa: A002
        *,
        flags: int = 0,
        size: int | None = None,
        record: bool = True,
    ) -> Call:
        """LAUNCH_UPDATE of `pages` pages (or `size` bytes) from `gfn`, a step if to `record`."""
        length = pages * PAGE_SIZE if size is None else size
        address = address_of(source)
        result = self.machine.try_.snp.launch_update(
            gfn * PAGE_SIZE, length, source=source, type=type, flags=flags
        )
        call = Call.of_pages(
            f"LAUNCH_UPDATE gfn {gfn}, {length // PAGE_SIZE} pages, type {type}",
            result,
            {"gpa": gfn * PAGE_SIZE, "source": address, "bytes": length},
            moves_source=type != PageType.ZERO,
        )
        self._follow_digest(call, gfn, address, type)
        if record:
            self.outcome.steps.append(call)
        return call

    def finish(self) -> None:
        """LAUNCH_FINISH."""
        self.machine.snp.launch_finish()

    def predicted_digest(self) -> str | None:
        """The digest of the pages that the steps so far populated; None if others may have been."""
        if self._digest is None or not self._digest.pages or self._measured_vmsas:
            return None
        return self._digest.hexdigest()

    def forget_digest(self) -> None:
        """Predict no digest: pages are populated in an order that nobody knows."""
        self._digest = None

    def launch_digest(self) -> str | None:
        """The digest as an emulated host's firmware has it; None on hardware."""
        return standin.launch_digest()

    def page_counts(self) -> dict[str, int] | None:
        """The pages in an emulated host's RMP, by state; None on hardware."""
        return standin.rmp_counts()

    def vcpu(self, number: int = 0) -> Result[Vcpu]:
        """Create a vCPU, closed at the end; its VMSA ends the digest that is followed."""
        created = self.keep(self.machine.try_.create_vcpu(number))
        self._measured_vmsas = self._measured_vmsas or created.ok
        return created

    def _follow_digest(self, call: Call, gfn: int, address: int, page_type: int) -> None:
        if self._digest is None:
            return
        for index in range(call.done or 0):
            contents = b""
            if page_type == PageType.NORMAL:
                contents = guarded_read(address + index * PAGE_SIZE, PAGE_SIZE)
            self._digest.update(page_type, (gfn + index) * PAGE_SIZE, contents)


def snp_scenario(
    scenario_id: str,
    summary: str,
    *needs: Need,
    destructive: bool = False,
) -> Callable[[Callable[[SnpBench], None]], Callable[[SnpBench], None]]:
    """Declare an SNP scenario: a decorator for the function that does it."""

    def declare(action: Callable[[SnpBench], None]) -> Callable[[SnpBench], None]:
        register(Scenario(scenario_id, VmType.SNP, summary, action, SnpBench, needs, destructive))
        return action

    return declare
