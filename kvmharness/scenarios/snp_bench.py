# SPDX-License-Identifier: MIT
"""Where SNP scenarios work: a VM of 64 private pages whose launch has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvmharness.kvm.mapping import PAGE_SIZE, guarded_read
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import DEFAULT_POLICY, PageType
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure.snp import LaunchDigest
from kvmharness.scenarios.engine import Need, Scenario, register
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.step import Call

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


class SnpBench(PopulateBench):
    """A Bench whose machine is an SNP VM. Pages are counted as gfns from 0."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._machine: Machine | None = None
        self._digest: LaunchDigest | None = None
        self._measured_vmsas = False

    @property
    def machine(self) -> Machine:
        """The VM: one slot of SLOT_PAGES private pages, launch started. Made when first used."""
        if self._machine is None:
            self.make()
            self.machine.set_private(0, SLOT_PAGES * PAGE_SIZE)
            self.machine.snp.launch_start(DEFAULT_POLICY)
            self._digest = LaunchDigest()
        assert self._machine is not None
        return self._machine

    def make(self, *, initialized: bool = True, vcpus: int = 0) -> Machine:
        """Make the VM without attributes and without a start, for scenarios about what precedes."""
        builder = VmBuilder(self.kvm, VmType.SNP).guest_memfd(0, SLOT_PAGES * PAGE_SIZE)
        if not initialized:
            builder.uninitialized()
        self._machine = self.stack.enter_context(builder.vcpus(vcpus).build())
        return self._machine

    def source(self, kind: str, pages: int, contents: bytes | None = None) -> Any:
        """Make a source by its name; closed with the bench."""
        made = SOURCE_KINDS[kind].make(pages, contents)
        return self.stack.enter_context(made) if isinstance(made, SourceBuffer) else made

    def try_update(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        type: int = PageType.NORMAL,  # noqa: A002
        *,
        flags: int = 0,
        size: int | None = None,
    ) -> Result[int]:
        """LAUNCH_UPDATE that is not recorded as a step; the digest is not followed past it."""
        self._digest = None
        return self._issue_update(gfn, pages, source, type, flags, size)

    def _issue_update(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        type: int,  # noqa: A002
        flags: int,
        size: int | None,
    ) -> Result[int]:
        length = pages * PAGE_SIZE if size is None else size
        return self.machine.try_.snp.launch_update(
            gfn * PAGE_SIZE, length, source=source, type=type, flags=flags
        )

    def update(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        type: int = PageType.NORMAL,  # noqa: A002
        *,
        flags: int = 0,
        size: int | None = None,
    ) -> Result[int]:
        """LAUNCH_UPDATE of `pages` pages (or `size` bytes) from `gfn`, recorded as a step."""
        length = pages * PAGE_SIZE if size is None else size
        result = self._issue_update(gfn, pages, source, type, flags, size)
        address = source.address if isinstance(source, SourceBuffer) else source or 0
        self._follow_digest(result, gfn, address, type)
        self.outcome.steps.append(
            Call.of_pages(
                f"LAUNCH_UPDATE gfn {gfn}, {length // PAGE_SIZE} pages, type {type}",
                result,
                {"gpa": gfn * PAGE_SIZE, "source": address, "bytes": length},
                moves_source=type != PageType.ZERO,
            )
        )
        return result

    def predicted_digest(self) -> str | None:
        """The digest of the pages that the steps so far populated; None if others may have been."""
        if self._digest is None or not self._digest.pages or self._measured_vmsas:
            return None
        return self._digest.hexdigest()

    def _follow_digest(self, result: Result[int], gfn: int, address: int, page_type: int) -> None:
        if self._digest is None or not result.ok or result.written_back is None:
            return
        for index in range(result.written_back[0] // PAGE_SIZE - gfn):
            contents = b""
            if page_type == PageType.NORMAL:
                contents = guarded_read(address + index * PAGE_SIZE, PAGE_SIZE)
            self._digest.update(page_type, (gfn + index) * PAGE_SIZE, contents)

    def command(self, label: str, result: Result[Any]) -> Result[Any]:
        """Record another launch command, or any call, as a step."""
        return self.step(label, result)

    def vcpu(self, number: int = 0) -> Result[Vcpu]:
        """Create a vCPU, closed with the machine; its VMSA ends the digest that is followed."""
        created = self.machine.try_.create_vcpu(number)
        if created.value is not None:
            self.machine.own(created.value)
            self._measured_vmsas = True
        return created


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
