# SPDX-License-Identifier: MIT
"""Where TDX scenarios work: a TD of 64 private pages with a vCPU, ready to be populated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE, guarded_read
from kvmharness.kvm.result import Result
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.source import SourceBuffer
from kvmharness.launch.tdx import TdxVcpu, start_td
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure.tdx import Mrtd
from kvmharness.scenarios.engine import Need, Scenario, register
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.step import Call
from kvmharness.standins import tdx as tdx_standin

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


class TdxBench(PopulateBench):
    """A Bench whose machine is a TD. Pages are counted as gfns from 0."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._machine: Machine | None = None
        self._mrtd: Mrtd | None = None
        self.stack.callback(tdx_standin.clear_injection)

    @property
    def machine(self) -> Machine:
        """The TD: one slot of SLOT_PAGES private pages, its vCPU ready. Made when first used."""
        if self._machine is None:
            self.make_ready()
        assert self._machine is not None
        return self._machine

    @property
    def vcpu(self) -> TdxVcpu:
        """The launch side of the first vCPU."""
        return self.machine.tdx_vcpu()

    def make(
        self, *, initialized: bool = True, vcpus: int = 1, guest_address_bits: int = 48
    ) -> Machine:
        """Make the TD without attributes and INIT_VCPU, for scenarios about what precedes."""
        builder = VmBuilder(self.kvm, VmType.TDX).guest_memfd(0, SLOT_PAGES * PAGE_SIZE)
        if not initialized:
            builder.uninitialized()
        elif guest_address_bits != 48:
            builder.uninitialized().before_vcpus(
                lambda vm: start_td(vm, self.kvm, guest_address_bits=guest_address_bits)
            )
        self._machine = self.stack.enter_context(builder.vcpus(vcpus).build())
        if initialized and guest_address_bits != 48:
            for vcpu in self._machine.vcpus:
                TdxVcpu(vcpu).set_cpuid_of_td()
        return self._machine

    def make_ready(self, *, vcpus: int = 1, guest_address_bits: int = 48) -> Machine:
        """Make the TD with its pages private and its vCPUs initialized; MRTD is followed."""
        machine = self.make(vcpus=vcpus, guest_address_bits=guest_address_bits)
        self.ready(machine)
        return machine

    def ready(self, machine: Machine, *, initialize_vcpus: bool = True) -> None:
        """Make the pages of an initialized TD private and its vCPUs ready, one if it has none."""
        if not machine.vcpus:
            machine.vcpus.append(machine.create_vcpu(0))
            machine.own(machine.vcpus[0])
            machine.tdx_vcpu().set_cpuid_of_td()
        machine.set_private(0, SLOT_PAGES * PAGE_SIZE)
        for index in range(len(machine.vcpus)):
            if initialize_vcpus:
                machine.tdx_vcpu(index).init_vcpu()
        self._mrtd = Mrtd()

    def source(self, kind: str, pages: int, contents: bytes | None = None) -> Any:
        """Make a source by its name; closed with the bench.

        After the TD: the memory that a TD maps could take the place that a source leaves empty.
        """
        _ = self.machine
        made = SOURCE_KINDS[kind].make(pages, contents)
        return self.stack.enter_context(made) if isinstance(made, SourceBuffer) else made

    def try_region(
        self, gfn: int, pages: int, source: SourceBuffer | int | None, *, vcpu: int = 0
    ) -> Result[int]:
        """INIT_MEM_REGION that is not recorded as a step; MRTD is not followed past it."""
        self._mrtd = None
        return self.machine.tdx_vcpu(vcpu).try_.init_mem_region(
            gfn * PAGE_SIZE, pages, source=source
        )

    def region(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        *,
        measure: bool = True,
        flags: int | None = None,
        gpa: int | None = None,
        hw_error: int = 0,
        vcpu: int = 0,
    ) -> Result[int]:
        """INIT_MEM_REGION of `pages` pages from `gfn`, or `gpa` (bytes), recorded as a step."""
        start = gfn * PAGE_SIZE if gpa is None else gpa
        result = self.machine.tdx_vcpu(vcpu).try_.init_mem_region(
            start, pages, source=source, measure=measure, flags=flags, hw_error=hw_error
        )
        address = source.address if isinstance(source, SourceBuffer) else source or 0
        measured = measure if flags is None else bool(flags & lib.KVM_TDX_MEASURE_MEMORY_REGION)
        self._follow_mrtd(result, start, address, measured)
        self.outcome.steps.append(
            Call.of_pages(
                f"INIT_MEM_REGION gpa {start:#x}, {pages} pages"
                + ("" if measured else ", not measured"),
                result,
                {"gpa": start, "source": address, "pages": pages},
            )
        )
        return result

    def command(self, label: str, result: Result[Any]) -> Result[Any]:
        """Record another launch command, or any call, as a step."""
        return self.step(label, result)

    def predicted_digest(self) -> str | None:
        """The MRTD of the pages that the steps so far added; None if others may have been."""
        if self._mrtd is None or not self._mrtd.pages:
            return None
        return self._mrtd.hexdigest()

    def launch_digest(self) -> str | None:
        """MRTD as the software TDX module has it; None on hardware, where KVM does not tell."""
        return tdx_standin.mrtd()

    def page_counts(self) -> dict[str, int] | None:
        """The pages that the software TDX module owns; None on hardware."""
        return tdx_standin.page_counts()

    def forget_digest(self) -> None:
        """Predict no MRTD: a page was added that the module did not measure to its end."""
        self._mrtd = None

    def added(self, gfn: int, pages: int, source: SourceBuffer) -> None:
        """Follow MRTD past measured pages that were added in order, but not by region()."""
        if self._mrtd is not None:
            for index in range(pages):
                self._mrtd.add_page((gfn + index) * PAGE_SIZE, source.page(index))

    def _follow_mrtd(self, result: Result[int], gpa: int, address: int, measured: bool) -> None:
        # Progress is written back on failure too, and what was added then counts.
        if self._mrtd is None or result.written_back is None:
            return
        for page in range(gpa, result.written_back[0], PAGE_SIZE):
            contents = guarded_read(address + page - gpa, PAGE_SIZE) if measured else None
            self._mrtd.add_page(page, contents)


def tdx_scenario(
    scenario_id: str,
    summary: str,
    *needs: Need,
    destructive: bool = False,
) -> Callable[[Callable[[TdxBench], None]], Callable[[TdxBench], None]]:
    """Declare a TDX scenario: a decorator for the function that does it."""

    def declare(action: Callable[[TdxBench], None]) -> Callable[[TdxBench], None]:
        register(Scenario(scenario_id, VmType.TDX, summary, action, TdxBench, needs, destructive))
        return action

    return declare
