# SPDX-License-Identifier: MIT
"""What was measured, as a table for people and as data."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kvmharness import labels
from kvmharness.bench.rows import Row
from kvmharness.bench.starting import Start
from kvmharness.bench.turns import Turns

SCHEMA = "kvmharness.bench/1"

Measured = Sequence[tuple[Row, Turns]]
Started = Sequence[tuple[Start, list[float]]]


def as_json(measured: Measured, started: Started, no_c: str) -> dict[str, Any]:
    """Return all figures: nanoseconds of each turn, processor time of each start, ratios to C.

    `no_c` says why there is no C, if so: the ratios are then null.
    """
    return {
        "schema": SCHEMA,
        "host": labels.current().kind,
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "no_c": no_c or None,
        "rows": {
            row.name: {
                "what": row.text,
                "goal": row.goal,
                "ratio": turns.ratio,
                "median_ratio": turns.median,
                "middle_half": turns.middle_half,
                "c_ns": turns.in_c,
                "python_ns": turns.in_python,
            }
            for row, turns in measured
        },
        "starts": {
            start.name: {"what": start.text, "goal_ms": start.goal_ms, "ms": times}
            for start, times in started
        },
    }


def show(console: Console, measured: Measured, started: Started, no_c: str) -> None:
    """Print a table of the rows, and one of what has no C beside it."""
    console.print(f"{labels.current().words}; Python {sys.version.split()[0]}")
    if no_c:
        console.print(f"no comparison: {no_c}")
    if measured:
        console.print(_rows(measured))
    if started:
        console.print(_starts(started))


def _rows(measured: Measured) -> Table:
    table = Table(title="nanoseconds an operation, the fastest turn", title_justify="left")
    for title in ("row", "what", "C", "kvmharness", "times C", "median", "middle half", "goal"):
        table.add_column(title, justify="left" if title in ("row", "what") else "right")
    for row, turns in measured:
        half = turns.middle_half
        table.add_row(
            row.name,
            row.text,
            f"{min(turns.in_c):,.0f}" if turns.in_c else "-",
            f"{min(turns.in_python):,.0f}",
            _ratio(turns.ratio),
            _ratio(turns.median),
            f"{half[0]:.2f}-{half[1]:.2f}" if half else "-",
            f"{row.goal:g}",
        )
    return table


def _starts(started: Started) -> Table:
    table = Table(title="milliseconds of processor time", title_justify="left")
    for title in ("row", "what", "fastest", "median", "goal"):
        table.add_column(title, justify="left" if title in ("row", "what") else "right")
    for start, times in started:
        table.add_row(
            start.name,
            start.text,
            f"{min(times):,.0f}",
            f"{statistics.median(times):,.0f}",
            f"{start.goal_ms:g}",
        )
    return table


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
