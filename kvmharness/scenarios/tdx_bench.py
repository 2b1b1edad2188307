# SPDX-License-Identifier: MIT
"""Where TDX scenarios work: a TD of 64 private pages with a vCPU, ready to be populated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import zip_longest
from typing import TYPE_CHECKING

from kvmharness.kvm.cpuid import Cpuid
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE, guarded_read
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.tdx import Tdx, TdxVcpu, start_td
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure.tdx import Mrtd
from kvmharness.scenarios.needs import Need
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench, Source, address_of
from kvmharness.scenarios.scenario import Scenario, register
from kvmharness.scenarios.step import Call
from kvmharness.standins import tdx as tdx_standin
from kvmharness.standins.tdx import GivenPage

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


#: What the module has of a TD for which KVM was given nothing, as the stand-in records it.
_NOT_GIVEN = dict.fromkeys(("mrconfigid", "mrowner", "mrownerconfig"), bytes(48).hex())


class TdxBench(PopulateBench):
    """A PopulateBench whose machine is a TD."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._mrtd: Mrtd | None = None
        self._pages: list[GivenPage] = []
        self._wanted: dict[str, str] = {}
        self._lost: list[str] = []
        self.stack.callback(tdx_standin.clear_injection)

    @property
    def vcpu(self) -> TdxVcpu:
        """The launch side of the first vCPU."""
        return self.machine.tdx_vcpu()

    def first_vcpu(self) -> Vcpu:
        """The TD's first vCPU."""
        return self.machine.vcpus[0]

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

    def cpuid_of_td(self, vm: Vm, bits: int = 48) -> Cpuid:
        """The CPUID for INIT_VM, with guest addresses of `bits` bits."""
        return Tdx(vm).capabilities().configure(self.kvm.get_supported_cpuid(), bits)

    def make_ready(self, *, vcpus: int = 1, guest_address_bits: int = 48) -> Machine:
        """Make the TD with its pages private and its vCPUs initialized; MRTD is followed."""
        machine = self.make(vcpus=vcpus, guest_address_bits=guest_address_bits)
        self.ready(machine)
        return machine

    def make_without_attributes(self) -> Machine:
        """Make the TD and its vCPU ready."""
        machine = self.make()
        machine.tdx_vcpu().init_vcpu()
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
        self.begin_digest()

    def populate(
        self,
        gfn: int,
        pages: int,
        source: Source,
        *,
        measure: bool = True,
        flags: int | None = None,
        gpa: int | None = None,
        hw_error: int = 0,
        vcpu: int = 0,
        record: bool = True,
    ) -> Call:
        """INIT_MEM_REGION of `pages` pages from `gfn`, or `gpa` (bytes), a step if to `record`."""
        start = gfn * PAGE_SIZE if gpa is None else gpa
        result = self.machine.tdx_vcpu(vcpu).try_.init_mem_region(
            start, pages, source=source, measure=measure, flags=flags, hw_error=hw_error
        )
        address = address_of(source)
        measured = measure if flags is None else bool(flags & lib.KVM_TDX_MEASURE_MEMORY_REGION)
        call = Call.of_pages(
            f"INIT_MEM_REGION gpa {start:#x}, {pages} pages"
            + ("" if measured else ", not measured"),
            result,
            {"gpa": start, "source": address, "pages": pages},
        )
        self._follow_mrtd(call, start, address, measured)
        if record:
            self.outcome.steps.append(call)
        return call

    def finish(self) -> None:
        """FINALIZE_VM."""
        self.machine.tdx.finalize_vm()

    def predicted_digest(self) -> str | None:
        """The MRTD of the pages that the steps so far added; None if others may have been."""
        if self._mrtd is None or not self._mrtd.pages:
            return None
        return self._mrtd.hexdigest()

    def launch_digest(self) -> str | None:
        """MRTD as the software TDX module has it; None on hardware, where KVM does not tell."""
        return tdx_standin.mrtd()

    def begin_digest(self) -> None:
        """Follow MRTD, and what the module is given, of a TD that has just been initialized."""
        self._mrtd = Mrtd()
        self._pages = []
        self._wanted = dict(_NOT_GIVEN)

    def wants(self, **fields: str) -> None:
        """Have `lost` compare these fields of TD_PARAMS, in the names of tdx_standin/record.c.

        Without it the three registers are to be 0, and the others are not looked at.
        """
        self._wanted |= fields

    def check(self, *more: str) -> None:
        """Look at what the module was given of this TD, before the next one; `more` is lost too."""
        self._lost = [*self.lost(), *more]
        self.forget_digest()

    def lost(self) -> list[str]:
        """What the module was given of the pages that were followed otherwise than KVM was.

        One line for each page or field that differs; none on hardware, and where pages are not
        followed.
        """
        given = tdx_standin.given()
        if given is None or self._mrtd is None:
            return self._lost
        lost = [
            f"page {number}: INIT_MEM_REGION had {one}, the module {other}"
            for number, (one, other) in enumerate(zip_longest(self._pages, given.pages))
            if one != other
        ]
        lost += [
            f"{name}: KVM was given {value}, the module {given.fields.get(name)}"
            for name, value in self._wanted.items()
            if given.fields.get(name) != value
        ]
        return self._lost + lost

    def page_counts(self) -> dict[str, int] | None:
        """The pages that the software TDX module owns; None on hardware."""
        return tdx_standin.page_counts()

    def forget_digest(self) -> None:
        """Predict no MRTD: pages are added in an unknown order, or one was not measured whole."""
        self._mrtd = None

    def _follow_mrtd(self, call: Call, gpa: int, address: int, measured: bool) -> None:
        # Progress is written back on failure too, and what was added then counts.
        if self._mrtd is None:
            return
        for offset in range(0, (call.done or 0) * PAGE_SIZE, PAGE_SIZE):
            contents = guarded_read(address + offset, PAGE_SIZE)
            self._mrtd.add_page(gpa + offset, contents if measured else None)
            digest = hashlib.sha384(contents).hexdigest()
            self._pages.append(GivenPage(gpa + offset, 0xFFFF if measured else 0, digest))


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
