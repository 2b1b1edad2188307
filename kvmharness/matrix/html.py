# SPDX-License-Identifier: MIT
"""A matrix as one self-contained page: no network, no files beside it, readable without scripts.

page.html is its template, filled in here; page.css makes it fit phones and desks in light and dark,
page.js filters it and opens a cell's details: write-back, kernel log, ioctls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kvmharness.matrix.model import KINDS, Cell, Change, Column, Kind, Matrix, Row
from kvmharness.matrix.table import reasons
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.step import Fact, Step, Tally

#: Beside the colour, for those who don't see it.
GLYPHS: Mapping[Kind, str] = {
    "ok": "✓",
    "partial": "◐",
    "refused": "✕",
    "firmware": "⊘",
    "warning": "!",
    "crash": "☠",
    "skip": "-",
}


def render(matrix: Matrix) -> str:
    """Return the matrix as an HTML document."""
    page = Environment(
        loader=PackageLoader("kvmharness", "matrix"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page.filters |= {"breakable": _breakable, "beneath": _beneath, "where": _where}
    present = {cell.kind for row in matrix.rows for cell in row.cells.values()}
    guests = {"snp": "an SNP guest", "tdx": "a TD", "default": "a guest_memfd"}
    return page.get_template("page.html").render(
        matrix=matrix,
        kernels=", ".join(column.short for column in matrix.columns),
        several=len(matrix.columns) > 1,
        guest=guests.get(matrix.vm_type, matrix.vm_type),
        emulated=[column.short for column in matrix.columns if column.label.emulated],
        topics=_topics(matrix),
        kinds={kind: words for kind, words in KINDS.items() if kind in present},
        glyphs=GLYPHS,
        rows=[_row(matrix, row) for row in matrix.rows],
        style=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        data=_data(matrix),
    )


def _file(name: str) -> str:
    return resources.files("kvmharness.matrix").joinpath(name).read_text(encoding="utf-8")


def _breakable(text: str, *after: str) -> Markup:
    """Escape `text` and let a line break after each of the characters `after`."""
    escaped = escape(text)
    for character in after:
        escaped = escaped.replace(character, Markup(f"{character}<wbr>"))
    return escaped


def _beneath(column: Column) -> str:
    """Say below a column's short name what it leaves out."""
    where = "emulated" if column.label.emulated else "native"
    return where if column.tells_release else f"{column.label.kernel}, {where}"


def _where(column: Column) -> str:
    """Say on what a column was seen."""
    told = ("kernel_origin", "qemu", "standin", "smp")
    facts = [
        f"{name.replace('_', ' ')} {value}" for name, value in column.facts.items() if name in told
    ]
    return "; ".join([column.label.words, *facts])


# ------------------------------------------------------------------ the table


def _topics(matrix: Matrix) -> list[dict[str, Any]]:
    everything = Counter(row.topic for row in matrix.rows)
    changed = Counter(row.topic for row in matrix.changed)
    return [
        {
            "id": name,
            "name": name.partition(".")[2] or name,
            "all": count,
            "changed": changed[name],
        }
        for name, count in everything.items()
    ]


def _row(matrix: Matrix, row: Row) -> dict[str, Any]:
    words = {row.id, row.summary, *reasons(matrix, row)}
    words |= {cell.words for cell in row.cells.values()}
    cells, left = [], None
    for column in matrix.columns:
        cell = row.cells[column.name]
        cells.append(_cell(column, cell, left))
        left = cell
    return {
        "id": row.id,
        "topic": row.topic,
        "summary": row.summary,
        "changed": row.changed,
        "words": " ".join(sorted(words)).lower(),
        "cells": cells,
        "changes": _once(row),
    }


def _cell(column: Column, cell: Cell, left: Cell | None) -> dict[str, Any]:
    classes: list[str] = [cell.kind]
    if left is not None:
        if cell.alike(left):
            classes.append("same")
        elif cell.ran and left.ran:
            classes.append("differs")
    *firsts, last = cell.brief.split("; ")
    parts = [*(f"{part};" for part in firsts), last]
    return {"column": column, "cell": cell, "classes": " ".join(classes), "parts": parts}


def _once(row: Row) -> list[Change]:
    """Return a row's changes, those that the contract explains alike once."""
    said: dict[tuple[str, str, str, str], Change] = {}
    for change in row.changes:
        said.setdefault((change.kernels, change.commit, change.why, change.source), change)
    return list(said.values())


# ------------------------------------------------------------------ the details


def _data(matrix: Matrix) -> Markup:
    """Return what the details show, as JSON that can't end the script element it stands in."""
    data = {
        "kernels": [
            {"name": column.name, "short": column.short, "words": column.label.words}
            for column in matrix.columns
        ],
        "glyphs": GLYPHS,
        "scenarios": {
            row.id: {
                "summary": row.summary,
                "why": reasons(matrix, row),
                "cells": [_details(row.cells[name]) for name in matrix.names],
            }
            for row in matrix.rows
        },
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _details(cell: Cell) -> dict[str, Any]:
    details: dict[str, Any] = {"kind": cell.kind, "words": cell.words}
    steps = [
        {"label": step.label, "words": words(step), "more": list(_more(step))}
        for step in cell.steps
    ]
    for name, value in (
        ("reason", cell.reason),
        ("contract", cell.contract),
        ("steps", steps),
        ("log", cell.log_lines),
        ("trace", cell.trace),
        ("digest", cell.digest),
        ("predicted", cell.predicted_digest),
        ("rmp", cell.rmp),
    ):
        if value:
            details[name] = value
    return details


def _more(step: Step) -> Iterator[str]:
    """Yield what stands below a step: ``gpa 0x0 → 0x4000`` of what a populate wrote back."""
    if isinstance(step, Fact):
        if step.note:
            yield step.note
    elif isinstance(step, Tally):
        yield ", ".join(f"{name} {times} times" for name, times in step.counts.items())
    else:
        for name, numbers in step.written_back.items():
            was, now = (str(n) if name == "pages" else hex(n) for n in numbers)
            what = f"{name} left" if name in ("pages", "bytes") else name
            yield f"{what} {was} → {now}" if was != now else f"{what} {was}, untouched"
