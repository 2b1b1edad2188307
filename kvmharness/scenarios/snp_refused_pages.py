# SPDX-License-Identifier: MIT
"""What is left of a populate that was refused: in its source, and in the page that it was for.

The page stays the guest_memfd's, and the guest gets it when it touches it: empty, or with what a
source held that was never measured. The stand-in looks at each page that it is given so.
"""

from __future__ import annotations

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.sev import PageType
from kvmharness.launch.source import numbered_pages
from kvmharness.scenarios.few_fds import no_more_fds
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario
from kvmharness.standins import snp as standin
from kvmharness.standins.snp import Failure, FirmwareCall

_STATUSES = (0x16, 0x1A, 0x17)  # INVALID_PARAM, INVALID_PAGE_STATE, RESOURCE_LIMIT


def _pages_given(bench: SnpBench, first: int, pages: int) -> None:
    """FINISH, have the guest given `pages` pages from gfn `first`, and say what they held."""
    bench.first_vcpu()
    bench.finish()
    before = standin.given_not_empty()
    bench.pre_fault(first, pages)
    given = standin.given_not_empty() - before
    bench.fact("the pages that the guest is given", "zeros" if given == 0 else "not zeros")


@snp_scenario(
    "snp.refused.by_firmware",
    "a page of each type, refused by the firmware with one status after another",
    "standin",
    "pre_fault",
)
def _by_firmware(bench: SnpBench) -> None:
    gfn = 0
    for type_ in PageType:
        source = None if type_ is PageType.ZERO else bench.source("aligned", 1)
        for status in _STATUSES:
            _ = bench.machine  # made first: its own commands are not what is to fail
            standin.inject(Failure(FirmwareCall.SNP_LAUNCH_UPDATE, status))
            bench.populate(gfn, 1, source, type_)
            gfn += 1
        if source is not None:
            kept = source.page(0) == numbered_pages(1)
            bench.fact(f"the source of {type_.name}", "unchanged" if kept else "overwritten")
    _pages_given(bench, 0, gfn)


@snp_scenario(
    "snp.refused.by_kvm",
    "pages refused by KVM: shared ones, one without a source, two out of four",
    "standin",
    "pre_fault",
)
def _by_kvm(bench: SnpBench) -> None:
    machine = bench.machine
    machine.set_shared(0, 2 * PAGE_SIZE)
    bench.populate(0, 2, bench.source("aligned", 2))
    machine.set_private(0, 2 * PAGE_SIZE)
    bench.populate(2, 1, bench.source("unmapped", 1))
    hole = bench.source("hole", 4)
    bench.populate(4, 4, hole)
    bench.populate(4, 1, hole)
    _pages_given(bench, 0, 4)
    bench.pre_fault(6, 2)


@snp_scenario(
    "snp.refused.finish",
    "a LAUNCH_FINISH that the firmware refused: no memory yet",
    "standin",
    "pre_fault",
)
def _finish(bench: SnpBench) -> None:
    bench.first_vcpu()
    bench.machine.set_private(0, PAGE_SIZE)
    standin.inject(Failure(FirmwareCall.SNP_LAUNCH_FINISH, _STATUSES[-1]))
    bench.step("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.pre_fault(0, 1)


@snp_scenario("snp.state.init2_after_no_fd", "KVM_SEV_INIT2 after a vCPU for which there was no fd")
def _init2_after_no_fd(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    with no_more_fds():
        bench.step("KVM_CREATE_VCPU", bench.keep(machine.try_.create_vcpu(0)))
    bench.step("KVM_SEV_INIT2", machine.try_.snp.init2())
    bench.step("KVM_CREATE_VCPU again", bench.keep(machine.try_.create_vcpu(0)))
