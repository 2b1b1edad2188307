# SPDX-License-Identifier: MIT
"""Which promises a kernel is held to, and what is said of an outcome that breaks them."""

from __future__ import annotations

import pytest

from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import LOG, Alternative, Calls, Contract, ContractError, Row
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.step import Call, Fact, Step, Tally

from ..steps import promises
from .samples import SCENARIO, outcome, row


def promised(contract: Contract, release: str) -> list[str]:
    return [str(row.outcome[0]) for row in contract.rows_for(SCENARIO, release)]


def test_a_release_is_held_to_the_row_of_its_generation() -> None:
    rows = Contract([row("EINVAL", first="6.19"), row("ok", end="6.19")])
    assert promised(rows, "6.18.44-fc-v669") == ["ok"]
    assert promised(rows, "7.3.4-1-amd64") == ["EINVAL"]


def test_a_point_release_is_held_to_what_it_has() -> None:
    fix = ["7.2", "7.1.4"]
    rows = Contract([row("ok", end=fix), row("EINVAL", first=fix)])
    assert promised(rows, "7.0.9") == ["ok"]
    assert promised(rows, "7.1.3+deb13-amd64") == ["ok"]
    assert promised(rows, "7.1.4") == ["EINVAL"]


def test_a_series_may_keep_what_any_of_its_releases_may() -> None:
    fix = ["7.2", "7.1.4"]
    rows = Contract([row("ok", end=fix), row("EINVAL", first=fix)])
    assert promised(rows, "7.1") == ["ok", "EINVAL"]
    assert promised(rows, "7.2") == ["EINVAL"]


def test_a_kernel_newer_than_every_row_is_held_to_the_newest() -> None:
    rows = Contract([row("ok", end="6.19"), row("EINVAL", first="6.19", end="7.4")])
    assert promised(rows, "9.1") == ["EINVAL"]


def test_a_kernel_between_two_rows_may_keep_either_but_nothing_else() -> None:
    rows = Contract([row("ok", end="6.13"), row("EINVAL", first="7.0")])
    assert rows.mismatch(outcome("ok"), "6.18") == ""
    assert rows.mismatch(outcome("EINVAL"), "6.18") == ""
    broken = rows.mismatch(outcome("EIO"), "6.18")
    assert "promised (before 6.13): ok" in broken
    assert "promised (from 7.0): EINVAL" in broken


def test_a_point_release_that_nobody_saw_may_keep_either() -> None:
    rows = Contract([row("ok", end=["7.2", "6.12.108"]), row("EINVAL", first=["7.2", "6.12.117"])])
    assert promised(rows, "6.12.107") == ["ok"]
    assert promised(rows, "6.12.110") == ["ok", "EINVAL"]
    assert promised(rows, "6.12.117") == ["EINVAL"]
    assert promised(rows, "6.18.99") == ["ok"]


def test_a_scenario_without_rows_is_an_error() -> None:
    with pytest.raises(ContractError, match="has no contract row"):
        Contract([]).rows_for(SCENARIO, "7.3")


def test_overlapping_rows_are_refused() -> None:
    rows = Contract([row("ok", end=["7.2", "7.1.4"]), row("EINVAL", first="7.1", end="7.2")])
    with pytest.raises(ContractError, match=r"before 7\.2 \(7\.1\.4\) and for from 7\.1"):
        rows.rows_for(SCENARIO, "6.12")


def test_a_contract_is_held_against_the_scenarios_there_are() -> None:
    anything = Row(Patterns(("c.*", "!c.d")), row("ok").generation, promises("ok"))
    rows = Contract([row("ok", end="7.2"), row("ok", first="7.1"), anything])
    assert rows.check(["a.b", "e.f"]) == [
        "'c.*' matches no scenario",
        "'!c.d' matches no scenario",
        "a.b: the rows for before 7.2 and for from 7.1 overlap",
        "e.f has no contract row",
        "e.f: what its steps call is said nowhere",
    ]
    assert Contract([row("ok")], [CALLS]).check(["a.b"]) == []


CALLS = Calls(Patterns((SCENARIO,)), ("KVM_RUN",), alike=True)


def test_what_the_steps_call_is_said_once_for_all_steps_or_for_each() -> None:
    rows = [row("ok", "EIO", end="7.0"), row("ok", "EINVAL", first="7.0")]
    each = Calls(Patterns((SCENARIO,)), ("KVM_RUN", "= an answer"))
    assert Contract(rows, [CALLS]).calls(SCENARIO) == ("KVM_RUN", "KVM_RUN")
    assert Contract(rows, [each]).calls(SCENARIO) == ("KVM_RUN", "= an answer")
    for calls, complaint in (([], "nowhere"), ([CALLS, each], "twice")):
        with pytest.raises(ContractError, match=complaint):
            Contract(rows, calls).calls(SCENARIO)
    with pytest.raises(ContractError, match=r"calls 2 times, but outcomes have \[1\] steps"):
        Contract([row("ok")], [each]).calls(SCENARIO)
    with pytest.raises(ContractError, match=r"outcomes have \[1, 2\] steps"):
        Contract([row("ok", end="7.0"), row("ok", "ok", first="7.0")], [CALLS]).calls(SCENARIO)


def test_calls_that_were_not_made_are_noticed() -> None:
    each = Calls(Patterns((SCENARIO,)), ("KVM_RUN", "= an answer", "KVM_RUN"))
    rows = Contract([row("ok", "= same", "none")], [each])
    steps: list[Step] = [Call("x", ioctl="KVM_RUN"), Fact("an answer", "same"), Tally("y", {})]
    assert rows.misnamed(Outcome(SCENARIO, steps)) == ""
    steps[1] = Fact("another", "same")
    assert "step 2 is = another, the contract has = an answer" in rows.misnamed(
        Outcome(SCENARIO, steps)
    )
    steps[0] = Call("x", ioctl="KVM_GET_REGS")
    assert "step 1 is KVM_GET_REGS" in rows.misnamed(Outcome(SCENARIO, steps))


def test_a_mismatch_reads_like_a_sentence() -> None:
    fixed = row("EINVAL", first="6.19", commit=("dcbcc2323c80",), why="it has to be aligned")
    text = Contract([row("ok", end="6.19"), fixed]).mismatch(outcome("ok"), "7.3.4")
    assert "a.b on 7.3.4 breaks its contract." in text
    assert "promised (from 6.19): EINVAL" in text
    assert "because: it has to be aligned [read in somewhere; commit dcbcc2323c80]" in text
    assert "happened: ok" in text
    assert "that is what the contract says of before 6.19" in text
    assert "1. call: ok" in text


def test_a_kernel_warning_that_nobody_promised_is_a_mismatch() -> None:
    rows = Contract([row("ok")])
    assert rows.mismatch(outcome("ok"), "7.3") == ""
    assert "kernel log: WARNING f" in rows.mismatch(outcome("ok", log=("WARNING f",)), "7.3")


def test_a_step_too_few_or_too_many_is_a_mismatch() -> None:
    rows = Contract([row("ok", "ok")])
    assert rows.mismatch(outcome("ok"), "7.3") != ""
    assert rows.mismatch(outcome("ok", "ok", "ok"), "7.3") != ""


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


def test_a_queued_row_does_not_take_the_place_of_released_ones() -> None:
    rows = Contract([row("EINVAL", end="7.3"), row("ok", first="7.4", queued=True)])
    # 7.5 is newer than every released row: held to the newest, or to what is queued.
    assert rows.mismatch(outcome("EINVAL"), "7.5") == ""
    assert rows.mismatch(outcome("ok"), "7.5") == ""
    assert rows.mismatch(outcome("ok"), "7.3") != ""


def test_an_alternative_has_a_log_of_its_own() -> None:
    other = Alternative(promises("ok", "EIO"), ("WARNING f",), ("6.18.15",), "lacks the fix")
    rows = Contract([row("ok", "EINVAL", alternatives=(other,))])
    assert rows.mismatch(outcome("ok", "EINVAL"), "7.3") == ""
    assert rows.mismatch(outcome("ok", "EIO", log=("WARNING f",)), "7.3") == ""
    assert rows.mismatch(outcome("ok", "EIO"), "7.3") != ""
    broken = rows.mismatch(outcome("ok", "EINVAL", log=("WARNING f",)), "7.3")
    assert "ok; EINVAL, or ok; EIO (kernel log: WARNING f)" in broken


# ------------------------------------------------------------------ beyond emulation


def test_a_difference_in_the_stand_ins_steps_is_not_the_kernels() -> None:
    rows = Contract([row("ok", "EIO fw=INVALID_PARAM", stand_in=frozenset({2}))])
    text = rows.beyond_emulation(outcome("ok", "EIO"), "7.3.4")
    assert "a.b on 7.3.4 differs from emulation." in text
    assert "* 2. call: EIO" in text
    assert "  1. call: ok" in text
    assert "Please report it" in text


def test_a_difference_in_the_kernels_own_steps_is_the_kernels() -> None:
    rows = Contract([row("ok", "EIO fw=INVALID_PARAM", stand_in=frozenset({2}))])
    assert rows.beyond_emulation(outcome("EINVAL", "EIO"), "7.3.4") == ""
    assert rows.beyond_emulation(outcome("ok", "EIO", log=("WARNING f",)), "7.3.4") == ""
    assert rows.beyond_emulation(outcome("ok"), "7.3.4") != ""  # the second step lacks
    assert rows.beyond_emulation(outcome("ok", "EIO fw=INVALID_PARAM"), "7.3.4") == ""


def test_the_log_may_be_the_stand_ins() -> None:
    rows = Contract([row("ok", log=("RMP host write",), stand_in=frozenset({LOG}))])
    assert "differs from emulation" in rows.beyond_emulation(outcome("ok"), "7.3.4")


# ------------------------------------------------------------------ the kernel's log


def test_a_bar_in_another_line_of_the_log_is_text() -> None:
    line = "level 3: kvm_intel: TDH_VP_WR[VMCS.0x4000] |= 0x80 failed"
    rows = Contract([row("ok", log=(line,))])
    assert rows.mismatch(outcome("ok", log=(line,)), "7.3") == ""
    assert rows.mismatch(outcome("ok"), "7.3")


def test_a_warning_may_be_in_any_function_that_can_carry_it() -> None:
    rows = Contract([row("ok", log=("WARNING f|g",))])
    for function in ("f", "g"):
        assert rows.mismatch(outcome("ok", log=(f"WARNING {function}",)), "7.3") == ""
    for log in ((), ("WARNING h",), ("WARNING f", "WARNING h"), ("BUG f",)):
        assert rows.mismatch(outcome("ok", log=log), "7.3") != ""


def test_each_warning_that_is_promised_has_to_be_there() -> None:
    rows = Contract([row("ok", log=("WARNING f|g", "WARNING h"))])
    assert rows.mismatch(outcome("ok", log=("WARNING g", "WARNING h")), "7.3") == ""
    assert rows.mismatch(outcome("ok", log=("WARNING g",)), "7.3") != ""


def test_a_log_that_can_not_be_read_breaks_no_promise() -> None:
    rows = Contract([row("ok", log=("WARNING f",))])
    assert rows.mismatch(outcome("ok", log=None), "7.3") == ""
    assert rows.mismatch(outcome("ok"), "7.3") != ""
    assert "can't be read" in rows.mismatch(outcome("EIO", log=None), "7.3")
