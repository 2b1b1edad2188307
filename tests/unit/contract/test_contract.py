# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import pytest

import kvmharness.scenarios.snp  # noqa: F401 (declares the scenarios)
from kvmharness.contract import rows as contract
from kvmharness.contract.rows import Contract, ContractError, Row
from kvmharness.release import parse_series
from kvmharness.scenarios.engine import SCENARIOS
from kvmharness.scenarios.outcome import Outcome, Step

#: Series that the project runs on emulated hosts: every scenario has a promise for each.
SERIES = ("6.12", "6.18", "7.3")


def row(first: str | None = None, last: str | None = None, *outcome: str) -> Row:
    return Row(
        scenario="snp.some.thing",
        first=parse_series(first) if first else None,
        last=parse_series(last) if last else None,
        outcome=outcome or ("ok +1",),
        log=(),
        seen=("6.12.94",),
        read="",
        commit="dcbcc2323c80",
        why="the source has to be aligned",
    )


def outcome(*texts: str, log: tuple[str, ...] = ()) -> Outcome:
    steps = [Step(f"call {number}", text) for number, text in enumerate(texts)]
    return Outcome("snp.some.thing", steps, log=list(log))


@pytest.mark.parametrize("series", SERIES)
def test_every_snp_scenario_has_a_row_for_each_kernel_it_runs_on(series: str) -> None:
    rows = contract.load()
    lacking = []
    for name in SCENARIOS:
        if name.startswith("snp."):
            try:
                rows.rows_for(name, series)
            except ContractError:
                lacking.append(name)
    assert lacking == []


def test_every_snp_row_has_a_scenario() -> None:
    rows = {name for name in contract.load().rows if name.startswith("snp.")}
    assert rows - set(SCENARIOS) == set()


def test_every_row_that_differs_between_kernels_says_why() -> None:
    silent = [
        name
        for name, rows in contract.load().rows.items()
        if len(rows) > 1 and not all(row.why or row.commit for row in rows)
    ]
    assert silent == []


def test_the_series_under_test_is_the_one_that_broke_unaligned_sources() -> None:
    rows = contract.load()
    assert rows.rows_for("snp.source.unaligned", "6.18.1")[0].outcome[0].startswith("ok")
    assert rows.rows_for("snp.source.unaligned", "7.3")[0].outcome == ("EINVAL",)


def test_a_release_is_held_to_the_row_of_its_series() -> None:
    rows = Contract([row(None, "6.18", "ok +1"), row("6.19", None, "EINVAL")])
    assert rows.rows_for("snp.some.thing", "6.18.44-fc-v669")[0].outcome == ("ok +1",)
    assert rows.rows_for("snp.some.thing", "7.3.4-1-amd64")[0].outcome == ("EINVAL",)


def test_a_kernel_newer_than_every_row_is_held_to_the_newest() -> None:
    rows = Contract([row(None, "6.18", "ok +1"), row("6.19", "7.3", "EINVAL")])
    assert rows.rows_for("snp.some.thing", "9.1")[0].outcome == ("EINVAL",)


def test_a_kernel_between_two_rows_may_keep_either_but_nothing_else() -> None:
    rows = Contract([row(None, "6.12", "ok +1"), row("7.0", None, "EINVAL")])
    assert rows.mismatch(outcome("ok +1"), "6.18") == ""
    assert rows.mismatch(outcome("EINVAL"), "6.18") == ""
    broken = rows.mismatch(outcome("EIO"), "6.18")
    assert "promised (up to 6.12): ok +1" in broken
    assert "promised (from 7.0): EINVAL" in broken


def test_a_scenario_without_rows_is_an_error() -> None:
    with pytest.raises(ContractError, match="has no contract row"):
        Contract([]).rows_for("snp.some.thing", "7.3")


def test_overlapping_rows_are_refused() -> None:
    with pytest.raises(ContractError, match=r"up to 7\.0 overlap|up to 7\.0 and"):
        Contract([row(None, "7.0"), row("6.18", None)])


def test_a_mismatch_reads_like_a_sentence() -> None:
    rows = Contract([row(None, "6.18", "ok +1"), row("6.19", None, "EINVAL")])
    text = rows.mismatch(outcome("ok +1"), "7.3.4")
    assert "promised (from 6.19): EINVAL" in text
    assert "happened: ok +1" in text
    assert "commit dcbcc2323c80" in text
    assert "that is what the contract says of up to 6.18" in text


def test_a_kernel_warning_that_nobody_promised_is_a_mismatch() -> None:
    rows = Contract([row(None, None, "ok +1")])
    assert rows.mismatch(outcome("ok +1"), "7.3") == ""
    assert "kernel log: WARNING f" in rows.mismatch(outcome("ok +1", log=("WARNING f",)), "7.3")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[row]]\nscenario = "a.b.c"\noutcome = ["ok"]\n', "say where it comes from"),
        ('[[row]]\nscenario = "a.b.c"\nseen = ["6.12"]\n', "scenario and outcome are required"),
        ('[[row]]\nscenario = "a"\noutcome = ["ok"]\nseen = ["1"]\nfrm = "1.0"\n', "unknown key"),
        ('[[row]]\nscenario = "a"\noutcome = ["ok"]\nseen = ["1"]\nto = "new"\n', "not a kernel"),
        ("[[row]\n", "contract_x.toml"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "contract_x.toml").write_text(text)
    with pytest.raises(ContractError, match=complaint):
        contract.load(tmp_path)
