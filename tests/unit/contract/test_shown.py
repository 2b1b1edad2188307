# SPDX-License-Identifier: MIT
"""The contract as a reader asks for it: rows of some scenarios, as text, as a document."""

from __future__ import annotations

import pytest

from kvmharness.contract import files
from kvmharness.contract.generation import Generation
from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import Alternative, Contract, Row
from kvmharness.contract.rst import chapter
from kvmharness.contract.shown import Promised, promised
from kvmharness.scenarios import catalog
from kvmharness.scenarios.grammar import parse

from .samples import row

EVERY = ["a.b", "a.c", "a.d"]
ALIKE = Row(Patterns(("a.{c,d}",)), Generation(), (parse("ok"),), read=("somewhere",))
CONTRACT = Contract([row("EIO", end="7.0"), row("EINVAL", first="7.0"), ALIKE])


def shown(scenarios: list[str], kernel: str | None) -> list[tuple[tuple[str, ...], list[str]]]:
    found = promised(CONTRACT, scenarios, EVERY, kernel)
    return [(each.named, each.outcomes) for each in found]


def test_a_kernels_rows_or_every_kernels() -> None:
    assert shown(["a.b"], "6.12") == [(("a.b",), ["EIO"])]
    assert shown(["a.b"], None) == [(("a.b",), ["EIO"]), (("a.b",), ["EINVAL"])]


def test_a_row_is_named_by_its_patterns_where_all_of_them_are_asked_for() -> None:
    assert shown(["a.c", "a.d"], None) == [(("a.{c,d}",), ["ok"])]
    assert shown(["a.d"], None) == [(("a.d",), ["ok"])]


def test_alternatives_and_the_log_are_shown() -> None:
    other = Alternative((parse("ENOTTY"),), why="built without")
    each = Promised(row("EINVAL", log=("WARNING f",), alternatives=(other,)), ("a.b",), True)
    assert each.outcomes == ["EINVAL", "(kernel log: WARNING f)", "or", "ENOTTY"]
    assert each.as_json()["promised"] == [
        {"outcome": ["EINVAL"], "log": ["WARNING f"]},
        {"outcome": ["ENOTTY"], "log": [], "why": "built without"},
    ]


def test_json_says_where_a_row_comes_from_and_what_rests_on_the_stand_in() -> None:
    each = Promised(
        row("EIO", stand_in=frozenset({0, 1}), commit=("dcbcc2323c80",)), ("a.b",), True
    )
    json = each.as_json()
    assert json["stand_in"] == ["log", 1]
    assert json["commit"] == ["dcbcc2323c80"]
    assert json["kernels"] == "every kernel"


# ------------------------------------------------------------------ reStructuredText


def html(text: str) -> str:
    """Return what docutils makes of a document; a warning is an error."""
    core = pytest.importorskip("docutils.core", reason="docutils is not installed")
    made: bytes = core.publish_string(
        text, writer_name="html", settings_overrides={"halt_level": 2, "report_level": 2}
    )
    return made.decode()


@pytest.mark.filterwarnings("ignore:Argument .writer_name.")
@pytest.mark.parametrize("kernel", [None, "7.2"])
def test_the_whole_contract_is_a_document_that_docutils_takes(kernel: str | None) -> None:
    scenarios = catalog.all_scenarios()
    summaries = {name: scenario.summary for name, scenario in scenarios.items()}
    ids = list(scenarios)
    entries = promised(files.load(), ids, ids, kernel)
    made = html(chapter(entries, summaries, kernel))
    assert made.count("<dt>") == len(entries) > 100
    assert "dcbcc2323c80" in made


@pytest.mark.filterwarnings("ignore:Argument .writer_name.")
def test_what_means_something_to_a_document_is_escaped() -> None:
    special = row("ok", why="a *star*, a `tick`, ends_ in |x|", read=("f__, a.c",))
    made = html(chapter([Promised(special, ("a.b",), True)], {"a.b": "a summary"}, None))
    assert "A *star*, a `tick`, ends_ in |x|" in made
    assert "f__, a.c" in made
