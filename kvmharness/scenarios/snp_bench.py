# SPDX-License-Identifier: MIT
"""Where SNP scenarios work: a VM of 64 private pages whose launch has started."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import zip_longest
from typing import TYPE_CHECKING

from kvmharness.kvm.mapping import PAGE_SIZE, guarded_read
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import DEFAULT_POLICY, PageType
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure import vmsa
from kvmharness.measure.snp import LaunchDigest
from kvmharness.scenarios import locks
from kvmharness.scenarios.needs import Need
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench, Source, address_of
from kvmharness.scenarios.scenario import Scenario, register
from kvmharness.scenarios.step import Call
from kvmharness.standins import snp as standin
from kvmharness.standins.snp import GivenPage, PageState, RmpEntry

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


#: Where the firmware has a vCPU's VMSA in the guest's memory: the last page below 2^48.
_VMSA_GPA = 0xFFFF_FFFF_F000
_VMSA = 2
#: What the firmware has of a launch for which KVM was given nothing, as the stand-in records it.
_NOT_GIVEN = {"gosvw": bytes(16).hex(), "tsc_khz": "0", "migration": "0", "imi": "0"}


class SnpBench(PopulateBench):
    """A PopulateBench whose machine is an SNP VM."""

    ok_may_leave_pages = True

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._digest: LaunchDigest | None = None
        self._pages: list[GivenPage] = []
        self._wanted: dict[str, str] = {}
        self._wanted_vmsas: list[bytes] | None = None
        self._faulted: set[int] = set()
        self._lost: list[str] = []
        self._vcpu: Vcpu | None = None
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
        self.begin_digest()
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

    def take_locks(self) -> None:
        """Take each lock of the VM, and of the vCPU that the bench itself made."""
        if self._machine is not None and self._vcpu is not None:
            locks.take_each(self._machine, [self._vcpu], [])
        super().take_locks()

    def predicted_digest(self) -> str | None:
        """The digest of the pages that the steps so far populated; None if others may have been."""
        if self._digest is None or not self._digest.pages:
            return None
        digest = copy(self._digest)
        for page in self._vmsas():
            digest.update(_VMSA, _VMSA_GPA, page)
        return digest.hexdigest()

    def begin_digest(self) -> None:
        """Follow the digest, and what the firmware is given, of a launch that has just started."""
        self._digest = LaunchDigest()
        self._pages = []
        self._wanted = {"policy": hex(DEFAULT_POLICY), **_NOT_GIVEN}
        self._wanted_vmsas = None
        self._faulted = set()

    def wants_faulted(self, gpa: int) -> None:
        """Have `lost` look for a page at `gpa` that is the guest's, and nobody has populated."""
        self._faulted.add(gpa)

    def wants(self, **fields: str) -> None:
        """Have `lost` compare these fields of the launch, in the names of snp_standin/record.c.

        Without it they are what a launch has that gives KVM nothing but the default policy.
        """
        self._wanted |= fields

    def wants_vmsas(self, vmsas: list[bytes]) -> None:
        """Have `lost` compare the VMSAs that FINISH measured, in its order, with these pages."""
        self._wanted_vmsas = vmsas

    def check(self) -> None:
        """Look at what the firmware was given of this launch, before the next one begins."""
        self._lost = self.lost()
        self.forget_digest()

    def lost(self) -> list[str]:
        """What the firmware was given of the pages that were followed otherwise than KVM was.

        One line for each page that differs; none on hardware, and where pages are not followed.
        """
        given = standin.given()
        if given is None or self._digest is None:
            return self._lost
        measured = ("VMSA", _VMSA_GPA, _VMSA, 0, (0, 0, 0))
        wanted = [_shown(page) for page in self._pages]
        had = [_shown(page) for page in given.pages]
        # VMSAs are measured last, each as large as its contents are anybody's.
        wanted += [measured for page in had[len(wanted) :] if page[2] == _VMSA]
        had = [("VMSA", *page[1:]) if page[2] == _VMSA else page for page in had]
        lost = [
            f"page {number}: LAUNCH_UPDATE had {one}, the firmware {other}"
            for number, (one, other) in enumerate(zip_longest(wanted, had))
            if one != other
        ]
        lost += [
            f"{name}: KVM was given {value}, the firmware {given.fields.get(name)}"
            for name, value in self._wanted.items()
            if given.fields.get(name) != value
        ]
        lost += self._rmp_lost(given)
        if self._wanted_vmsas is not None:
            lost += _vmsas_lost(self._wanted_vmsas, given.vmsas)
        return self._lost + lost

    def _rmp_lost(self, given: standin.Given) -> Iterator[str]:
        """Pages of the guest's that are in a state, or at an address, that KVM was not asked for.

        A page that was populated may be gone again.
        """
        populated = {page.gpa for page in self._pages}
        for gpa, entry in given.rmp.items():
            state = PageState.GUEST_VALID if gpa in populated else PageState.GUEST_INVALID
            if entry != RmpEntry(state, large=False) or (
                gpa not in populated and self._faulted and gpa not in self._faulted
            ):
                yield f"the RMP has {gpa:#x} as {entry}"
        for gpa in self._faulted - set(given.rmp):
            yield f"the RMP has nothing of {gpa:#x}, which was faulted in"
        asid = int(given.fields["asid"])
        if not 0 < asid < standin.MIN_SEV_ASID:
            yield f"the guest's ASID is {asid}: those of SNP are below {standin.MIN_SEV_ASID}"

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
        """Create a vCPU, closed at the end."""
        return self.keep(self.machine.try_.create_vcpu(number))

    def _vmsas(self) -> tuple[bytes, ...]:
        """The VMSAs that FINISH measured, as the firmware had them."""
        given = standin.given()
        return given.vmsas if given else ()

    def _follow_digest(self, call: Call, gfn: int, address: int, page_type: int) -> None:
        if self._digest is None:
            return
        for index in range(call.done or 0):
            contents = b""
            hashed = page_type != PageType.ZERO
            if hashed:
                contents = guarded_read(address + index * PAGE_SIZE, PAGE_SIZE)
            self._digest.update(page_type, (gfn + index) * PAGE_SIZE, contents)
            digest = "" if not hashed else hashlib.sha384(contents).hexdigest()
            gpa = (gfn + index) * PAGE_SIZE
            self._pages.append(GivenPage(gpa, page_type, 0, (0, 0, 0), digest))


def _vmsas_lost(wanted: Sequence[bytes], had: Sequence[bytes]) -> Iterator[str]:
    if len(wanted) != len(had):
        yield f"there are {len(wanted)} vCPUs, the firmware had {len(had)} VMSAs"
    for number, pages in enumerate(zip(wanted, had, strict=False)):
        for difference in vmsa.differences(*pages):
            yield f"VMSA {number}: {difference}"


def _shown(page: GivenPage) -> tuple[str, int, int, int, tuple[int, int, int]]:
    """A page as two are compared; the contents of a ZERO page are the firmware's to write."""
    contents = "" if page.type == PageType.ZERO else page.contents[:16]
    return contents, page.gpa, page.type, page.imi, page.vmpl_permissions


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
