# SPDX-License-Identifier: MIT
"""Where scenarios about populating work, SNP's and TDX's alike: a slot of private pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.scenarios.engine import Bench
from kvmharness.scenarios.step import Call

#: Pages of the slot that scenarios populate; it begins at gfn 0.
SLOT_PAGES = 64


class PopulateBench(Bench):
    """A Bench whose VM has SLOT_PAGES private pages to populate, counted as gfns from 0."""

    def pre_fault(self, vcpu: Vcpu, gfn: int, pages: int) -> None:
        """KVM_PRE_FAULT_MEMORY of `pages` pages from `gfn`, recorded as a step."""
        gpa, size = gfn * PAGE_SIZE, pages * PAGE_SIZE
        result = vcpu.try_.pre_fault_memory(gpa, size)
        label = f"KVM_PRE_FAULT_MEMORY gfn {gfn}, {pages} pages"
        self.outcome.steps.append(Call.of_pages(label, result, {"gpa": gpa, "bytes": size}))

    def populated_once(self, gfns: Iterable[int]) -> None:
        """Record how many of the slot's pages are named exactly once in `gfns`."""
        times = Counter(gfns)
        once = sum(times[gfn] == 1 for gfn in range(SLOT_PAGES))
        others = {gfn: times[gfn] for gfn in sorted(times) if times[gfn] != 1}
        note = f"more than once: {others}" if others else ""
        self.fact("pages populated once", f"{once} of {SLOT_PAGES}", note)
