# SPDX-License-Identifier: MIT
"""The contract's rows as they are: each scenario has its promises, each promise a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.contract import rows as contract
from kvmharness.contract.rows import Alternative, Contract, ContractError, Row
from kvmharness.kvm.vmtypes import VmType
from kvmharness.release import parse_series
from kvmharness.scenarios import catalog
from kvmharness.scenarios.outcome import Outcome, Step

#: A series of each generation: what changed for somebody, changed between two of these.
GENERATIONS = ("6.12", "6.17", "6.18", "6.19", "7.0", "7.2", "7.3", "7.4")

SCENARIOS = catalog.all_scenarios()
ROWS = contract.load()


def row(*outcome: str, first: str = "", last: str = "", **values: object) -> Row:
    return Row(
        scenario="a.b",
        first=parse_series(first) if first else None,
        last=parse_series(last) if last else None,
        outcome=outcome,
        log=(),
        seen=(),
        read="somewhere",
        commit="",
        why="",
        **values,  # type: ignore[arg-type]
    )


def outcome(*texts: str, log: tuple[str, ...] = ()) -> Outcome:
    return Outcome("a.b", [Step("call", text) for text in texts], log=list(log))


@pytest.mark.parametrize("vm_type", catalog.vm_types(), ids=lambda vm_type: vm_type.label)
def test_every_scenario_has_a_promise_of_every_generation(vm_type: VmType) -> None:
    lacking = []
    for name in catalog.scenarios(vm_type):
        for series in GENERATIONS:
            try:
                ROWS.rows_for(name, series)
            except ContractError:
                lacking.append(f"{name} on {series}")
    assert lacking == []


def test_every_promise_has_a_scenario() -> None:
    assert set(ROWS.rows) - set(SCENARIOS) == set()


def test_every_promise_says_why() -> None:
    silent = [
        name for name, rows in ROWS.rows.items() if not all(row.why or row.commit for row in rows)
    ]
    assert silent == []


def test_what_is_queued_is_for_a_series_to_come_and_was_read() -> None:
    queued = [row for rows in ROWS.rows.values() for row in rows if row.queued]
    assert queued
    for each in queued:
        assert each.first is not None
        assert each.first >= (7, 4)
        assert each.read
        assert each.why
        assert "queued, not yet seen on a released kernel" in each.origin


def test_the_seed_series_can_be_told_from_the_rows() -> None:
    def promised(name: str, series: str) -> tuple[str, ...]:
        return ROWS.rows_for(name, series)[0].outcome

    assert promised("snp.source.unaligned", "6.19") == ("ok +4",)
    assert promised("snp.source.unaligned", "7.0") == ("EINVAL",)
    assert promised("snp.source.null", "7.2") == ("EIO",)
    assert ROWS.rows_for("snp.source.null", "7.2")[0].log == ("WARNING sev_gmem_post_populate",)
    assert promised("snp.source.null", "7.3") == ("EINVAL",)
    assert ROWS.rows_for("snp.source.null", "7.3")[0].log == ()
    assert promised("snp.source.readonly_cpuid", "6.18") == ("ok +1",)
    assert promised("snp.source.readonly_cpuid", "7.3") == ("EIO",)


# ------------------------------------------------------------------ queued rows, alternatives


def test_a_kernel_with_a_queued_change_may_keep_either_row() -> None:
    rows = Contract([row("EINVAL", first="7.3"), row("ok", first="7.4", queued=True)])
    assert rows.mismatch(outcome("EINVAL"), "7.3") == ""
    assert "promised (from 7.3): EINVAL" in rows.mismatch(outcome("ok"), "7.3")
    for text in ("EINVAL", "ok"):
        assert rows.mismatch(outcome(text), "7.4-rc1") == ""
        assert rows.mismatch(outcome(text), "8.1") == ""
    broken = rows.mismatch(outcome("EIO"), "7.4")
    assert "promised (from 7.3): EINVAL" in broken
    assert "promised (from 7.4): ok" in broken
    assert "queued, not yet seen" in broken


def test_a_queued_row_does_not_stand_in_for_released_ones() -> None:
    rows = Contract([row("EINVAL", last="7.2"), row("ok", first="7.4", queued=True)])
    # 7.5 is newer than every released row: held to the newest, or to what is queued.
    assert rows.mismatch(outcome("EINVAL"), "7.5") == ""
    assert rows.mismatch(outcome("ok"), "7.5") == ""
    assert rows.mismatch(outcome("ok"), "7.3") != ""


def test_an_alternative_has_a_log_of_its_own() -> None:
    other = Alternative(("ok", "EIO"), ("WARNING f",), ("6.18.15",), "lacks the fix")
    rows = Contract([row("ok", "EINVAL", alternatives=(other,))])
    assert rows.mismatch(outcome("ok", "EINVAL"), "7.3") == ""
    assert rows.mismatch(outcome("ok", "EIO", log=("WARNING f",)), "7.3") == ""
    assert rows.mismatch(outcome("ok", "EIO"), "7.3") != ""
    broken = rows.mismatch(outcome("ok", "EINVAL", log=("WARNING f",)), "7.3")
    assert "ok; EINVAL, or ok; EIO (kernel log: WARNING f)" in broken


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("or = [5]", "an entry of `or` is a list of texts or has an `outcome`"),
        ('or = [{ log = ["x"] }]', "has an `outcome`"),
        ('or = [{ outcome = ["x"], becuase = "y" }]', "unknown key 'becuase'"),
        ("queued = true", "what was seen on a released kernel is not queued"),
    ],
)
def test_a_malformed_alternative_is_named(tmp_path: Path, extra: str, complaint: str) -> None:
    text = f'[[row]]\nscenario = "a.b"\noutcome = ["ok"]\nseen = ["7.3.4"]\n{extra}\n'
    (tmp_path / "snp.toml").write_text(text)
    with pytest.raises(ContractError, match=f"snp.toml: row of a.b: .*{complaint}"):
        contract.load(tmp_path)
