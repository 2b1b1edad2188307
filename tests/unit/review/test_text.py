# SPDX-License-Identifier: MIT
"""A review in words: fit for a mail, honest about what was not tested; and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kvmharness.kernels.patches import FileChange, Patch
from kvmharness.kernels.series import Series
from kvmharness.matrix.model import Cell
from kvmharness.review import model, text
from kvmharness.review.model import Difference, First, Kind, Review, Side, Step

from ..matrix.samples import cell, column

LONG = "KVM: guest_memfd: A title that is longer than what fits on a line of a mail, as many are"
FILES = (
    FileChange("virt/kvm/guest_memfd.c", "--- a\n"),
    FileChange("arch/x86/kvm/Kconfig", "--- a\n"),
    FileChange("tools/testing/selftests/kvm/guest_memfd_test.c", ""),
)
SERIES = Series("s.mbox", (Patch(LONG, FILES), Patch("KVM: ü", FILES[:1])), ("a note",))


def difference(kind: Kind, after: Cell, scenario: str = "snp.source.unaligned") -> Difference:
    return Difference(scenario, "an address within a page", cell("EINVAL"), after, kind, "a reason")


def review(*differences: Difference, **values: object) -> Review:
    side = Side(
        "snp",
        column("7.3.4", {}),
        column("7.3.4+s.mbox", {}),
        differences,
        compared=10,
        not_run={"no NUMA": 2},
    )
    made = Review(SERIES, "7.3.4+deb13-amd64", "Debian, 7.3.4-1", "2026-11-26", "7.3.4+s.mbox")
    return replace(made, sides=(side,), **values)  # type: ignore[arg-type]


ALIKE = review()
BROKEN = review(
    difference("broken", cell("EDOM")),
    difference("changed", cell("ok"), "snp.source.null"),
    first=(First(2, "KVM: ü", "snp", ("snp.source.unaligned",), "broken"),),
    fuzz=("virt/kvm/guest_memfd.c: hunk 1 fits at line 7 with fuzz 1",),
)
NO_BUILD = replace(ALIKE, build_error="kvm does not build:\nx.c:1: error: no", sides=())
EACH = replace(
    ALIKE, steps=(Step(1, LONG), Step(2, "KVM: ü", "x.c:1: error: no"), Step(3, "KVM: three"))
)


@pytest.mark.parametrize("shown", [ALIKE, BROKEN, NO_BUILD, EACH])
def test_a_reply_is_ascii_of_76_columns(shown: Review) -> None:
    lines = text.render(shown, tested_by="A <a@example.org>").splitlines()
    assert max(map(len, lines)) <= 76
    assert all(line.isascii() and line == line.rstrip() for line in lines)


def flat(shown: Review) -> str:
    return " ".join(text.render(shown).split())


def test_it_says_what_ran_where_and_what_was_not_tested() -> None:
    said = flat(BROKEN)
    for words in (
        "s.mbox: 2 patches on Linux 7.3.4+deb13-amd64",
        "emulated hosts (QEMU's software emulation, stand-ins for the silicon): not a hardware",
        "SNP on emulated-snp: 10 scenarios compared, 8 alike, 1 broken, 1 changed",
        "Result: 10 scenarios compared: 1 broken, 1 changed",
        "note: a note",
        "note: fuzz: virt/kvm/guest_memfd.c: hunk 1 fits at line 7 with fuzz 1",
        "snp.source.unaligned: an address within a page without EINVAL with EDOM > a reason",
        "Patch 2 is the first that breaks snp.source.unaligned: KVM: ?",
        "Not tested",
        "selftests and tools in the series, left out: "
        "tools/testing/selftests/kvm/guest_memfd_test.c",
        "what arch/x86/kvm/Kconfig changes: the configuration is the packaged kernel's",
        "2 SNP scenarios: no NUMA",
    ):
        assert words in said, words


def test_the_trailer_is_for_what_broke_nothing() -> None:
    changed = review(difference("changed", cell("ok")))
    for shown in (ALIKE, changed):
        assert text.render(shown, tested_by="A <a@b>").endswith("\nTested-by: A <a@b>\n")
    unknown = replace(ALIKE, sides=(replace(ALIKE.sides[0], unknown="a scenario failed"),))
    for shown in (BROKEN, NO_BUILD, EACH, unknown):
        assert "Tested-by" not in text.render(shown, tested_by="A <a@b>")
    assert "Tested-by" not in text.render(ALIKE)


def test_a_build_that_breaks_shows_the_compilers_words() -> None:
    assert "the series does not build" in flat(NO_BUILD)
    assert "x.c:1: error: no --each tells which patch breaks it." in flat(NO_BUILD)
    assert "Patch 2 is the first that breaks the build: KVM: ? up to patch 2: x.c:1:" in flat(EACH)


def test_what_changed_alike_is_shown_once() -> None:
    many = [difference("broken", cell("EDOM"), f"snp.{number}") for number in range(30)]
    said = text.render(review(*many))
    assert said.count("EDOM") == 1
    assert "snp.0: " in said
    assert "and 23 more, alike" in said


def test_a_crash_shows_the_kernels_words() -> None:
    lines = ("------------[ cut here ]------------", "RAX: 0000 RBX: 0001", "CR2: 0")
    told = tuple(f"line {number}" for number in range(20))
    crash = Cell("crash", "the kernel panicked", log_lines=lines + told)
    said = flat(review(difference("broken", crash)))
    assert "with crash: the kernel panicked log: line 0 log: line 1" in said
    assert "... 8 more lines" in said


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (ALIKE, 0),
        (BROKEN, 1),
        (NO_BUILD, 1),
        (EACH, 1),
        (review(difference("changed", cell("ok"))), 3),
        (review(difference("unsteady", cell("ok"))), 0),
        (replace(ALIKE, sides=(replace(ALIKE.sides[0], unknown="did not boot"),)), 1),
        (replace(ALIKE, sides=(replace(ALIKE.sides[0], absent="no QEMU", compared=0),)), 4),
        (replace(ALIKE, sides=(replace(ALIKE.sides[0], down="a panic", compared=0),)), 1),
        (replace(ALIKE, sides=(*ALIKE.sides, replace(ALIKE.sides[0], absent="x", compared=0))), 0),
    ],
)
def test_the_exit_status(shown: Review, status: int) -> None:
    assert shown.status == status
    values = json.loads(model.render(shown))
    assert (values["schema"], values["exit_status"]) == ("kvmharness.series/1", status)


def test_a_host_that_does_not_come_up_is_said_to_be_the_series() -> None:
    down = replace(ALIKE, sides=(replace(ALIKE.sides[0], down="a panic", compared=0),))
    assert "SNP on emulated-snp: with the series it does not come up: a panic" in flat(down)
    assert "Result: with the series emulated-snp does not come up" in flat(down)
    older = replace(ALIKE, sides=(replace(ALIKE.sides[0], absent="it takes 7.2", compared=0),))
    assert "SNP: it takes 7.2" in flat(older).partition("Not tested")[2]
