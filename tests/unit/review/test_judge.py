# SPDX-License-Identifier: MIT
"""What a difference comes to: broken by no kernel's promise, changed where some kernel has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvmharness.matrix.model import Cell
from kvmharness.review.judge import side, verdict

from ..matrix.samples import CONTRACT, cell, column, skip

UNALIGNED, NULL = "snp.source.unaligned", "snp.source.null"


@pytest.mark.parametrize(
    ("scenario", "before", "after", "kind", "why"),
    [
        (UNALIGNED, cell("EINVAL"), cell("EDOM"), "broken", "promised (from 7.0): EINVAL, because"),
        (UNALIGNED, cell("EINVAL"), cell("ok"), "changed", "says of before 7.0: copied from any"),
        (UNALIGNED, cell("ok"), cell("EINVAL"), "changed", "as promised of from 7.0; it was not"),
        (UNALIGNED, cell("ok"), cell("EDOM"), "changed", "neither with nor without the series"),
        ("snp.other", cell("ok"), cell("EDOM"), "changed", "no kernel promises anything of it"),
        (UNALIGNED, cell("EINVAL"), Cell("crash", "a panic"), "broken", "a panic"),
        (UNALIGNED, cell("EINVAL"), Cell("hang"), "broken", "it ended in a hang"),
        (UNALIGNED, cell("EINVAL"), skip("no SNP"), "broken", "can no longer run: no SNP"),
        # What 7.2 did is a changed promise, but for the report of a bug that came with it.
        (
            NULL,
            cell("EINVAL"),
            cell("EIO", log=["WARNING sev_gmem_post_populate"]),
            "broken",
            "reports a bug in itself: WARNING sev_gmem_post_populate",
        ),
        (NULL, cell("EINVAL", log=["WARNING f"]), cell("EIO", log=["WARNING f"]), "changed", ""),
    ],
)
def test_the_verdict(scenario: str, before: Cell, after: Cell, kind: str, why: str) -> None:
    found, said = verdict(CONTRACT, scenario, "7.3.4+series.mbox", before, after)
    assert (found, why in said) == (kind, True), said


def _side(before: dict[str, Cell], after: dict[str, Cell], **more: object):  # type: ignore[no-untyped-def]
    summaries = {name: f"what {name} is" for name in before}
    columns = column("7.3.4", before), column("7.3.4+s.mbox", after)
    return side(CONTRACT, *columns, "snp", summaries, **more)  # type: ignore[arg-type]


def test_a_side_counts_what_is_alike_what_differs_and_what_did_not_run() -> None:
    found = _side(
        {"a": cell("ok"), UNALIGNED: cell("EINVAL"), "b": skip("no b"), "c": skip("no c")},
        {"a": cell("ok"), UNALIGNED: cell("EDOM"), "b": skip("no b"), "c": cell("ok")},
    )
    assert [(d.scenario, d.kind, d.summary) for d in found.differences] == [
        (UNALIGNED, "broken", f"what {UNALIGNED} is"),
        ("c", "changed", "what c is"),
    ]
    assert (found.compared, found.not_run, found.unknown) == (3, {"no b": 1}, "")


def test_what_is_meant_is_changed_and_not_broken() -> None:
    cells = {UNALIGNED: cell("EINVAL")}, {UNALIGNED: cell("EDOM")}
    (found,) = _side(*cells, meant={UNALIGNED}).differences
    assert (found.kind, found.why[:22]) == ("changed", "it is said to be meant")


def test_a_scenario_that_fails_by_itself_is_not_told() -> None:
    found = _side({"a": cell("ok")}, {"a": Cell("error", "ValueError: x")})
    assert (found.differences, found.compared) == ((), 0)
    assert found.unknown == "a failed by itself: ValueError: x"


def test_what_the_kernel_still_holds_with_the_series_alone_is_a_leak() -> None:
    before = {
        "a": cell("ok"),
        "b": cell("ok", held=("1 TDX keys",)),  # left there on purpose
        "c": cell("ok"),
    }
    after = {
        "a": cell("ok", held=("4 pages that nobody has",)),
        "b": cell("ok", held=("2 TDX keys",)),
        "c": cell("ok"),
    }
    (found,) = _side(before, after).differences
    assert (found.scenario, found.kind) == ("a", "broken")
    assert found.why == "when it is over the kernel still holds 4 pages that nobody has"
    assert _side(after, before).differences == ()


@pytest.mark.parametrize(
    ("absent", "cell_", "what"),
    [
        ("before", skip("it takes kernel 7.2"), "absent"),
        ("before", Cell("error", "no boot"), "unknown"),
        ("after", Cell("error", "no boot"), "down"),
    ],
)
def test_a_host_that_observes_nothing(absent: str, cell_: Cell, what: str) -> None:
    columns = {name: column("7.3.4", {"a": cell("ok")}) for name in ("before", "after")}
    columns[absent] = replace(columns[absent], cells={"a": cell_}, absent=cell_.reason)
    found = side(CONTRACT, columns["before"], columns["after"], "snp", {"a": ""})
    said = {name: getattr(found, name) for name in ("absent", "unknown", "down")}
    assert said == {"absent": "", "unknown": "", "down": "", what: cell_.reason}


def test_each_sides_cell_says_whether_it_is_as_promised() -> None:
    (found,) = _side({UNALIGNED: cell("EINVAL")}, {UNALIGNED: cell("EDOM")}).differences
    assert (found.before.contract, found.after.contract) == ("kept", "broken")
