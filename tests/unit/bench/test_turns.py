# SPDX-License-Identifier: MIT
"""The benchmark's arithmetic, and what it says of turns with C and without."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kvmharness.bench import shown
from kvmharness.bench.rows import Row
from kvmharness.bench.starting import STARTS
from kvmharness.bench.turns import Turns, take_turns

TURNS = Turns([10.0, 20.0, 10.0, 40.0], [30.0, 20.0, 40.0, 160.0])


def test_the_ratio_is_that_of_the_fastest_turns() -> None:
    assert TURNS.ratio == 2
    assert TURNS.ratios == [1, 3, 4, 4]
    assert TURNS.median == 3.5
    assert TURNS.middle_half == (3, 4)


def test_without_c_there_is_no_ratio() -> None:
    turns = Turns([], [30.0])
    assert (turns.ratio, turns.median, turns.middle_half) == (None, None, None)


def test_turns_alternate_after_one_to_begin_with() -> None:
    done: list[Any] = []
    row = Row("x", "", 1, "z", 20, lambda count: done.append(("python", count)), 7)

    def in_c(letter: str, count: int, size: int) -> float:
        done.append((letter, count, size))
        return 5.0

    turns = take_turns(row, in_c, 2)
    one = [("z", 20, 7), ("python", 20)]
    assert done == [("python", 2), ("z", 2, 7), *one, *one]
    assert turns.in_c == [5.0, 5.0]
    assert len(turns.in_python) == 2
    assert take_turns(row, None, 3).in_c == []


@pytest.mark.parametrize("no_c", ["", "no C compiler: cc is not there"])
def test_both_reports_have_every_figure(no_c: str) -> None:
    turns = Turns([], [30.0]) if no_c else TURNS
    measured = [(Row("x.row", "what it is", 1.5, "z", 20, lambda count: None), turns)]
    started = [(STARTS[0], [70.0, 50.0])]
    data = shown.as_json(measured, started, no_c)
    assert data["no_c"] == (no_c or None)
    assert data["rows"]["x.row"]["ratio"] == (None if no_c else 2)
    assert data["rows"]["x.row"]["python_ns"] == turns.in_python
    assert data["starts"]["import"] == {
        "what": STARTS[0].text,
        "goal_ms": 60,
        "ms": [70.0, 50.0],
    }
    text = io.StringIO()
    shown.show(Console(file=text, width=130), measured, started, no_c)
    assert ("no comparison: no C compiler: cc is not there" in text.getvalue()) == bool(no_c)
    assert ("2.00" in text.getvalue()) != bool(no_c)
    assert "x.row" in text.getvalue()
    assert "60" in text.getvalue()
