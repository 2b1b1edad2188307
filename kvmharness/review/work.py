# SPDX-License-Identifier: MIT
"""Builds a series, boots hosts with and without it, and has the scenarios observed on both."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kvmharness import host_kinds, progress
from kvmharness.contract.rows import Contract
from kvmharness.kernels import kvm_build
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.kvm_build import Built, Plan
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.patch_tool import DoesNotApply
from kvmharness.kernels.series import Series
from kvmharness.kvm.vmtypes import VmType
from kvmharness.matrix.collect import Place, Request, collect
from kvmharness.matrix.model import CRASH, HANG, Cell, Column
from kvmharness.review import judge
from kvmharness.review.model import Difference, First, Review, Side, Step
from kvmharness.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Wanted:
    """What to do with a series. `scenarios`: by VM type. `fresh`: whatever is cached."""

    series: Series
    base: Kernel
    variant: str
    scenarios: Mapping[str, Mapping[str, Scenario]]
    each: bool = False
    meant: Collection[str] = ()
    fresh: bool = False
    left_out: tuple[str, ...] = ()


@dataclass
class Work:
    """The work on one series, step by step; `review` is what is known so far."""

    wanted: Wanted
    contract: Contract
    review: Review = field(init=False)
    _built: dict[int, Built] = field(default_factory=dict)  # by the number of patches applied
    _applied: list[tuple[str, ...]] = field(default_factory=list)  # what patch(1) said of each

    def __post_init__(self) -> None:
        base, series = self.wanted.base, self.wanted.series
        named = kvm_build.named(base, series, self.wanted.variant)
        self.review = Review(
            series,
            self._base.label,
            base.origin,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            patched=named.label,
            left_out=self.wanted.left_out,
        )

    @property
    def _base(self) -> Kernel:
        """The kernel without the series: the packaged one, byte for byte, or the variant of it."""
        if not self.wanted.variant:
            return self.wanted.base
        return kvm_build.changed(self.wanted.base, None, self.wanted.variant)

    def run(self) -> Review:
        """Do all of it. Raises DoesNotApply, MissingCapability."""
        self._build()
        if not self.review.build_error:
            for vm_type in self.wanted.scenarios:
                self.review = replace(self.review, sides=(*self.review.sides, self._side(vm_type)))
            if self.wanted.each:
                first = tuple(f for side in self.review.sides for f in self._first(side))
                self.review = replace(self.review, first=first)
        return self.review

    # -------------------------------------------------------------- building

    def _build(self) -> None:
        series = self.wanted.series
        plan = Plan.of(self.wanted.base, self.wanted.variant)
        numbers = range(1, len(series.patches) + 1) if self.wanted.each else [len(series.patches)]
        errors: dict[int, str] = {}
        for number in numbers:
            if (found := plan.find(series.patches[:number])) is not None:
                self._built[number] = found
        if len(self._built) < len(numbers):
            self._build_missing(plan, set(numbers) - self._built.keys(), errors)
        last = len(series.patches)
        self.review = replace(
            self.review,
            build_error=errors.get(last, ""),
            fuzz=tuple(line for lines in self._fuzz() for line in lines),
            steps=tuple(
                Step(number, patch.title, errors.get(number, ""), self._fuzz()[number - 1])
                for number, patch in enumerate(series.patches, 1)
            )
            if self.wanted.each
            else (),
        )

    def _build_missing(self, plan: Plan, missing: set[int], errors: dict[int, str]) -> None:
        """Apply all patches, one upon the other, and build where it is asked for."""
        with plan.workshop() as shop:
            for number, patch in enumerate(self.wanted.series.patches, 1):
                try:
                    shop.apply(patch)
                except DoesNotApply as error:
                    if len(self.wanted.series.patches) == 1:
                        raise
                    raise DoesNotApply(f"patch {number}, {error}") from None
                if number not in missing:
                    continue
                words = f"building KVM's modules for {self.review.patched}"
                of = f", patch {number} of {len(self.wanted.series.patches)}"
                try:
                    with progress.step(words + of * self.wanted.each):
                        self._built[number] = shop.build()
                except BuildFailed as error:
                    errors[number] = str(error)
            self._applied = list(shop.fuzz)

    def _fuzz(self) -> Sequence[tuple[str, ...]]:
        """Return what patch(1) had to guess, for each patch."""
        if self._applied:
            return self._applied
        return self._built[len(self.wanted.series.patches)].fuzz

    def _kernel(self, number: int) -> Kernel:
        """Return the kernel with the first `number` patches; 0 is the one without."""
        if number == 0:
            return self._base
        series = self.wanted.series
        part = series if number == len(series.patches) else series.first(number)
        return kvm_build.with_modules(
            self.wanted.base, self._built[number], part, self.wanted.variant
        )

    # -------------------------------------------------------------- observing

    def _observe(self, vm_type: str, number: int, ids: Collection[str], fresh: bool) -> Column:
        kind = host_kinds.for_vm_type(vm_type).name
        chosen = {name: s for name, s in self.wanted.scenarios[vm_type].items() if name in ids}
        request = Request(VmType.parse(vm_type), chosen, fresh)
        (column,) = collect([Place(kind, self._kernel(number))], request)
        return column

    def _side(self, vm_type: str) -> Side:
        scenarios = self.wanted.scenarios[vm_type]
        last = len(self.wanted.series.patches)
        before, after = (
            self._observe(vm_type, number, scenarios, self.wanted.fresh) for number in (0, last)
        )
        if after.absent and not before.absent:
            # Once more: a busy machine can be too slow for a boot, whatever the kernel.
            after = self._observe(vm_type, last, scenarios, fresh=True)
        summaries = {name: scenario.summary for name, scenario in scenarios.items()}
        side = judge.side(self.contract, before, after, vm_type, summaries, self.wanted.meant)
        return self._confirmed(side)

    def _confirmed(self, side: Side) -> Side:
        """Look at what differs in a second boot: what does not differ there is unsteady.

        A crash, a hang or a report of a bug stays what it is, whatever a second boot shows.
        """
        doubtful = [d.scenario for d in side.differences if d.after.result not in (CRASH, HANG)]
        if not doubtful:
            return side
        again = self._observe(side.vm_type, len(self.wanted.series.patches), doubtful, fresh=True)
        if again.absent:
            return side

        def confirmed(each: Difference) -> Difference:
            if each.scenario not in doubtful or each.after.log:
                return each
            if _differs(each, again.cells[each.scenario]):
                return each
            return replace(each, kind="unsteady", why="in a second boot it was as without")

        return replace(side, differences=tuple(map(confirmed, side.differences)))

    # -------------------------------------------------------------- the first patch

    def _first(self, side: Side) -> Iterator[First]:
        """Find the first patch with which what is broken is so, or else what is changed.

        By bisection, over the patches up to which the source builds; what an earlier patch broke
        and a later one mended is not seen.
        """
        broken = side.of_kind("broken")
        found = broken or side.of_kind("changed")
        if not found:
            return
        ids = [each.scenario for each in found]

        def differs(number: int) -> list[str]:
            column = self._observe(side.vm_type, number, ids, fresh=False)
            if column.absent:
                return ids
            return [d.scenario for d in found if _differs(d, column.cells[d.scenario])]

        numbers = sorted(self._built)
        number, scenarios = first_with(numbers, differs, ids)
        title = self.wanted.series.patches[number - 1].title
        yield First(number, title, side.vm_type, tuple(scenarios), found[0].kind)


def _differs(difference: Difference, cell: Cell) -> bool:
    """Whether a cell is not as it is without the series."""
    return not difference.before.alike(cell) or bool(judge.leaked(difference.before, cell))


def first_with(
    numbers: Sequence[int], differs: Callable[[int], list[str]], at_the_end: list[str]
) -> tuple[int, list[str]]:
    """Return the first of `numbers` (ascending) where `differs` finds anything, and what it finds.

    The last is known to, with `at_the_end`.
    """
    low, high, found = 0, len(numbers) - 1, at_the_end
    while low < high:
        middle = (low + high) // 2
        if there := differs(numbers[middle]):
            high, found = middle, there
        else:
            low = middle + 1
    return numbers[high], found
