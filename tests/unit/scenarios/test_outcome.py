# SPDX-License-Identifier: MIT
"""What an outcome comes to, as JSON there and back; kernel-log lines reduced."""

from __future__ import annotations

import errno
import json

import pytest

from kvmharness.scenarios.outcome import Outcome, result_of, step_as_json, step_from_json
from kvmharness.scenarios.step import Call, Fact, Step, Tally

from ..steps import step

OK, EIO, FACT = Call("a"), Call("b", errno.EIO), Fact("c", "same")


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        ([], "ok"),
        ([FACT], "ok"),
        ([EIO, OK], "ok"),
        ([OK, EIO], "EIO"),
        ([OK, EIO, FACT], "EIO"),
        ([EIO, Tally("calls", {"EINVAL": 3, "ok": 1})], "ok"),
        ([OK, Tally("calls", {"EINVAL": 3, "ok": 0})], "EINVAL"),
        ([OK, Tally("calls", {})], "ok"),
        ([Tally("calls", {"ok": 1}), EIO], "EIO"),
        ([step("SIGBUS")], "EFAULT"),
    ],
)
def test_the_result_is_the_last_calls(steps: list[Step], result: str) -> None:
    assert result_of(steps) == result
    assert Outcome("x", steps).as_json()["result"] == result


@pytest.mark.parametrize(
    "made",
    [
        OK,
        FACT,
        Fact("c", "changed", "a note"),
        Tally("calls", {"ok": 3, "EIO": 1}),
        Call("x", errno.EIO, 0x16, "INVALID_PARAM"),
        Call("x", errno.EFAULT, signal="SIGBUS"),
        Call("x", asked=4, done=2, left=2, source_moved=0, written_back={"gpa": (0, 0x2000)}),
        Call("x", asked=4, done=0, left=0, gpa_moved=1, size_moved=-5),
    ],
)
def test_a_step_is_written_and_read_again(made: Step) -> None:
    assert step_from_json(json.loads(json.dumps(step_as_json(made)))) == made


def test_a_step_in_json_has_its_words_and_no_more_than_it_needs() -> None:
    assert step_as_json(EIO) == {
        "step": "call",
        "words": "EIO",
        "label": "b",
        "errno": 5,
        "fw_error": None,
    }
    assert step_as_json(Tally("calls", {"ok": 2})) == {
        "step": "tally",
        "words": "all ok",
        "label": "calls",
        "counts": {"ok": 2},
    }


@pytest.mark.parametrize("values", [{}, {"label": "a", "text": "ok"}, {"step": "leap"}])
def test_what_is_no_step_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        step_from_json(values)
