# SPDX-License-Identifier: MIT
"""The work on a series, on hosts and with builds that are fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmharness.contract.rows import Contract
from kvmharness.kernels import kvm_build
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.kvm_build import Built
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.patch_tool import Applied, DoesNotApply
from kvmharness.kernels.patches import FileChange, Patch
from kvmharness.kernels.series import Series
from kvmharness.kvm.vmtypes import VmType
from kvmharness.labels import HostLabel
from kvmharness.matrix.collect import Place, Request
from kvmharness.matrix.model import Cell, Column
from kvmharness.review import work
from kvmharness.review.model import Review
from kvmharness.review.work import Wanted, Work, first_with
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.scenario import Scenario

from ..matrix.samples import CONTRACT, cell

UNALIGNED = "snp.source.unaligned"
#: What a fake host shows: the number of patches, and how often it was booted so, to cells.
Show = Callable[[int, int], Cell]


class FakePlan:
    """Builds that take no time: of some patches they fail."""

    def __init__(self, fails: Sequence[int] = (), rejects: int = 0) -> None:
        self.fails, self.rejects = fails, rejects
        self.applied: list[Patch] = []
        self.made: list[int] = []

    def find(self, patches: Sequence[Patch]) -> None:
        return None

    @contextmanager
    def workshop(self) -> Iterator[FakePlan]:
        yield self

    @property
    def fuzz(self) -> list[tuple[str, ...]]:
        return [(f"fuzz {patch.title}",) for patch in self.applied]

    def apply(self, patch: Patch) -> Applied:
        self.applied.append(patch)
        if len(self.applied) == self.rejects:
            raise DoesNotApply(f"{patch.title!r} does not apply")
        return Applied()

    def build(self) -> Built:
        number = len(self.applied)
        self.made.append(number)
        if number in self.fails:
            raise BuildFailed(f"x.c:{number}: error: no")
        return Built({"kvm": Path(f"kvm-{number}.ko")})


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Review, list[int]]]:
    """Work on a series of four patches; return the review, and how many patches each boot had."""

    def do_(
        show: Show, plan: FakePlan | None = None, each: bool = False
    ) -> tuple[Review, list[int]]:
        boots: list[int] = []

        def collect(places: Sequence[Place], request: Request) -> Iterator[Column]:
            (place,) = places
            assert isinstance(place.kernel, Kernel)
            module = place.kernel.replaced.get("kvm")
            number = int(module.stem.rpartition("-")[2]) if module else 0
            shown = show(number, boots.count(number))
            boots.append(number)
            cells = dict.fromkeys(request.scenarios, shown)
            label = HostLabel(place.kind, place.kernel.label)
            absent = shown.reason if shown.result == "error" else ""
            yield Column(place.wanted, label, {}, cells, absent)

        made = plan or FakePlan()
        monkeypatch.setattr(kvm_build.Plan, "of", lambda kernel, variant: made)
        monkeypatch.setattr(work, "collect", collect)
        patches = [
            Patch(f"KVM: {n}", (FileChange("virt/kvm/x.c", f"--- {n}\n"),)) for n in range(1, 5)
        ]
        kernel = Kernel("7.3.4+deb13-amd64", tmp_path / "vmlinux", tmp_path, "Debian")
        scenario = Scenario(UNALIGNED, VmType.SNP, "", lambda bench: None, Bench, (), False)
        asked = Wanted(
            Series("s.mbox", tuple(patches)), kernel, "", {"snp": {UNALIGNED: scenario}}, each
        )
        contract: Contract = CONTRACT
        return Work(asked, contract).run(), boots

    return do_


def broken_from(first: int) -> Show:
    return lambda number, boot: cell("EDOM" if number >= first else "EINVAL")


def test_nothing_changed(do: Callable[..., tuple[Review, list[int]]]) -> None:
    plan = FakePlan()
    review, boots = do(lambda number, boot: cell("EINVAL"), plan)
    assert (review.status, boots, plan.made) == (0, [0, 4], [4])
    assert review.patched == "7.3.4+s.mbox"
    assert review.fuzz == tuple(f"fuzz KVM: {number}" for number in range(1, 5))


def test_what_differs_is_looked_at_in_a_second_boot(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    review, boots = do(broken_from(1))
    assert (review.status, boots) == (1, [0, 4, 4])
    once = do(lambda number, boot: cell("EDOM" if (number, boot) == (4, 0) else "EINVAL"))[0]
    assert (once.status, [d.kind for d in once.differences]) == (0, ["unsteady"])


def test_a_crash_or_a_report_of_a_bug_once_is_enough(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    for bad in (Cell("crash", "a panic"), cell("EINVAL", log=["WARNING f"])):
        review, _ = do(
            lambda number, boot, bad=bad: bad if (number, boot) == (4, 0) else cell("EINVAL")
        )
        assert (review.status, [d.kind for d in review.differences]) == (1, ["broken"])


def test_a_leak_has_to_show_in_a_second_boot(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    def left(pages: int) -> Cell:
        return cell("EINVAL", held=(f"{pages} pages",) if pages else ())

    review, _ = do(lambda number, boot: left(4 if number > 2 else 0), each=True)
    assert (review.status, [d.kind for d in review.differences]) == (1, ["broken"])
    assert [first.number for first in review.first] == [3]
    review, _ = do(lambda number, boot: left(4 if (number, boot) == (4, 0) else 0))
    assert (review.status, [d.kind for d in review.differences]) == (0, ["unsteady"])


def test_a_host_that_does_not_come_up_is_booted_once_more(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    down = Cell("error", "it did not boot")
    review, boots = do(lambda number, boot: down if number else cell("EINVAL"))
    assert (review.status, review.sides[0].down, boots) == (1, "it did not boot", [0, 4, 4])
    review, _ = do(lambda number, boot: down if (number, boot) == (4, 0) else cell("EINVAL"))
    assert (review.status, review.sides[0].down) == (0, "")


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_each_finds_the_first_patch_that_breaks_a_promise(
    do: Callable[..., tuple[Review, list[int]]], first: int
) -> None:
    plan = FakePlan()
    review, _ = do(broken_from(first), plan, each=True)
    assert plan.made == [1, 2, 3, 4]
    assert [(f.number, f.title, f.kind) for f in review.first] == [
        (first, f"KVM: {first}", "broken")
    ]


def test_each_names_the_first_patch_that_breaks_the_build_and_goes_on(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    review, boots = do(lambda number, boot: cell("EINVAL"), FakePlan(fails=(2, 3)), each=True)
    assert [step.number for step in review.broken_builds] == [2, 3]
    assert (review.status, review.build_error, boots) == (1, "", [0, 4])
    # A patch that does not build is no step of the bisection.
    review, boots = do(broken_from(3), FakePlan(fails=(2, 3)), each=True)
    assert [first.number for first in review.first] == [4]
    assert not {2, 3} & set(boots)


def test_a_series_that_does_not_build_is_not_booted(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    review, boots = do(lambda number, boot: cell("EINVAL"), FakePlan(fails=(4,)))
    assert (review.status, review.build_error, boots) == (1, "x.c:4: error: no", [])


def test_a_patch_that_does_not_apply_is_named_by_its_number(
    do: Callable[..., tuple[Review, list[int]]],
) -> None:
    with pytest.raises(DoesNotApply, match="patch 2, 'KVM: 2' does not apply"):
        do(lambda number, boot: cell("EINVAL"), FakePlan(rejects=2))


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3, 4, 5, 6, 7], [1, 3, 7]])
def test_a_bisection_asks_as_little_as_it_can(numbers: list[int]) -> None:
    for first in numbers:
        asked: list[int] = []

        def differs(number: int, first: int = first, asked: list[int] = asked) -> list[str]:
            asked.append(number)
            return ["a"] if number >= first else []

        assert first_with(numbers, differs, ["a"]) == (first, ["a"])
        assert len(asked) <= len(numbers).bit_length()
