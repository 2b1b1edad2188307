# SPDX-License-Identifier: MIT
"""A matrix as one self-contained page: no network, no files beside it, readable without scripts.

The table is written here; page.css makes it fit phones and desks in light and dark, page.js filters
it and opens a cell's details: write-back, kernel log, ioctls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from typing import Any

from kvmharness.matrix.model import KINDS, Cell, Change, Column, Kind, Matrix, Row
from kvmharness.matrix.table import reasons

#: A reader with a network may follow a commit; the page itself fetches nothing.
_COMMITS = "https://git.kernel.org/linus/"

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
    title = f"{matrix.vm_type} scenarios, Linux {', '.join(c.short for c in matrix.columns)}"
    parts = {
        "TITLE": escape(title),
        "STYLE": _page("page.css"),
        "SCRIPT": _page("page.js"),
        "HEADER": _header(matrix),
        "TOOLS": _tools(matrix),
        "TABLE": _table(matrix),
        "FOOTER": _footer(matrix),
        "DATA": _data(matrix),
    }
    page = _page("page.html")
    # One pass: what a part holds is never taken for a placeholder.
    pieces = page.split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _page(name: str) -> str:
    return resources.files("kvmharness.matrix").joinpath(name).read_text(encoding="utf-8")


# ------------------------------------------------------------------ around the table


def _header(matrix: Matrix) -> str:
    changed, total = len(matrix.changed), len(matrix.rows)
    kernels = ", ".join(escape(column.short) for column in matrix.columns)
    what = {"snp": "an SNP guest", "tdx": "a TD", "default": "a guest_memfd"}
    title = f"Populating {what.get(matrix.vm_type, matrix.vm_type)}: Linux {kernels}"
    if len(matrix.columns) > 1:
        count = f"<strong>{changed}</strong> of {total} scenarios differ between the kernels"
    else:
        count = f"{total} scenarios"
    day = escape(matrix.date[:10])
    lines = [
        f"<h1>{title}</h1>",
        f'<p class="facts">{count} <span>·</span> observed <time>{day}</time> '
        f"<span>·</span> kvmharness {escape(matrix.version)}</p>",
    ]
    emulated = [escape(column.short) for column in matrix.columns if column.label.emulated]
    if emulated:
        which = "" if len(emulated) == len(matrix.columns) else f" ({', '.join(emulated)})"
        lines.append(
            f'<p class="emulated"><b>Emulated{which}.</b> The kernels\' own code on stand-in '
            "silicon, under QEMU: what the kernel does, not a hardware result.</p>"
        )
    lines += [
        f'<p class="absent">{escape(column.short)}: {escape(column.absent)}</p>'
        for column in matrix.columns
        if column.absent
    ]
    return "\n".join(lines)


def _tools(matrix: Matrix) -> str:
    topics = Counter(row.topic for row in matrix.rows)
    changed = Counter(row.topic for row in matrix.changed)
    chips = [
        f'<button type="button" class="chip" data-topic="{escape(name)}" '
        f'data-all="{count}" data-changed="{changed[name]}" aria-pressed="false">'
        f"{escape(name.partition('.')[2] or name)}<span>{count}</span></button>"
        for name, count in topics.items()
    ]
    only = ""
    if matrix.changed:
        only = (
            '<label class="switch"><input type="checkbox" id="only" checked>'
            f"<span></span>Changed only ({len(matrix.changed)})</label>"
        )
    return (
        f'<div class="line">{only}<input id="search" type="search" placeholder="Search ids, '
        'outcomes, commits" aria-label="Search ids, outcomes, commits"></div>'
        f'<div class="chips" role="group" aria-label="Topics">{"".join(chips)}</div>'
        f"{_legend(matrix)}"
    )


def _legend(matrix: Matrix) -> str:
    present = {cell.kind for row in matrix.rows for cell in row.cells.values()}
    items = [
        f'<li><span class="dot {kind}">{GLYPHS[kind]}</span>{escape(words)}</li>'
        for kind, words in KINDS.items()
        if kind in present
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _footer(matrix: Matrix) -> str:
    items = []
    for column in matrix.columns:
        facts = [
            f"{name.replace('_', ' ')} {value}"
            for name, value in column.facts.items()
            if name in ("kernel_origin", "qemu", "standin", "smp")
        ]
        words = escape("; ".join([column.label.words, *facts]))
        items.append(f"<li><b>{escape(column.name)}</b> {words}</li>")
    return (
        f"<h2>Where this was seen</h2><ul>{''.join(items)}</ul>"
        "<p>A cell holds a text for each step: <code>ok +4</code> four pages populated, "
        "<code>left 2</code> what the kernel wrote back as still to do, <code>fw=</code> the "
        "firmware's code. Nothing here is asserted; <code>kvmharness run</code> does that.</p>"
    )


# ------------------------------------------------------------------ the table


def _table(matrix: Matrix) -> str:
    heads = "".join(_head(column) for column in matrix.columns)
    several = len(matrix.columns) > 1
    why = '<div role="columnheader" class="why">What changed it</div>' if several else ""
    rows = "\n".join(_row(matrix, row) for row in matrix.rows)
    classes = "table" + ("" if several else " single")
    return (
        f'<div class="{classes}" role="table" style="--kernels: {len(matrix.columns)}">'
        f'<div role="row" class="row head"><div role="columnheader" class="id">Scenario</div>'
        f"{heads}{why}</div>\n{rows}</div>"
        '<p id="nothing" hidden>No scenario fits.</p>'
    )


def _head(column: Column) -> str:
    where = "emulated" if column.label.emulated else "native"
    release = column.label.kernel
    below = where if release.startswith(column.short) else f"{release}, {where}"
    return (
        f'<div role="columnheader" class="kernel" title="{escape(column.label.words)}">'
        f"{escape(column.short)}<small>{escape(below)}</small></div>"
    )


def _row(matrix: Matrix, row: Row) -> str:
    cells, left = [], None
    for column in matrix.columns:
        cell = row.cells[column.name]
        cells.append(_cell(row, column, cell, left))
        left = cell
    why = ""
    if len(matrix.columns) > 1:
        notes = "".join(_note(matrix, change) for change in _once(matrix, row))
        why = f'<div role="cell" class="why">{notes}</div>'
    words = {row.id, row.summary, *reasons(matrix, row)}
    words |= {cell.words for cell in row.cells.values()}
    changed = " changed" if row.changed else ""
    # "snp.type.cpuid." may break a line at its dots.
    name = escape(row.id).replace(".", ".<wbr>").replace("_", "_<wbr>")
    return (
        f'<div role="row" class="row{changed}" id="{escape(row.id)}" '
        f'data-topic="{escape(row.topic)}" data-words="{escape(" ".join(words).lower())}">'
        f'<div role="rowheader" class="id"><code>{name}</code>'
        f"<small>{escape(row.summary)}</small></div>{''.join(cells)}{why}</div>"
    )


def _cell(row: Row, column: Column, cell: Cell, left: Cell | None) -> str:
    classes: list[str] = [cell.kind]
    if left is not None:
        same = cell.alike(left)
        classes.append("same" if same else "differs" if cell.ran and left.ran else "")
    broken = (
        '<em title="not what the contract promises">≠</em>' if cell.contract == "broken" else ""
    )
    words = f"{column.short}: {cell.words}; details"
    return (
        f'<div role="cell" class="cell {" ".join(filter(None, classes))}">'
        f'<button type="button" data-row="{escape(row.id)}" data-kernel="{escape(column.name)}" '
        f'aria-label="{escape(words)}"><i>{escape(column.short)}</i>'
        f"<b>{GLYPHS[cell.kind]}</b>{_words(cell)}{broken}</button></div>"
    )


def _words(cell: Cell) -> str:
    """Return the outcome, which may break a line after a step but not inside a short one."""
    *firsts, last = cell.brief.split("; ")
    parts = [*(f"{part};" for part in firsts), last]
    return " ".join(f"<span>{escape(part).replace('_', '_<wbr>')}</span>" for part in parts)


def _once(matrix: Matrix, row: Row) -> list[Change]:
    """Return a row's changes, those that the contract explains alike once."""
    said: dict[tuple[str, str, str, str], Change] = {}
    for change in row.changes:
        said.setdefault((change.kernels, change.commit, change.why, change.source), change)
    return list(said.values())


def _note(matrix: Matrix, change: Change) -> str:
    if not (change.why or change.commit or change.source):
        after = escape(matrix.column(change.after).short)
        return f'<p class="unknown"><b>{after}</b> the contract knows of no such change</p>'
    link = f"{_COMMITS}{escape(change.commit)}"
    commit = f' <a href="{link}"><code>{escape(change.commit)}</code></a>' if change.commit else ""
    source = (
        "" if change.commit or not change.source else f" <small>{escape(change.source)}</small>"
    )
    return f"<p><b>{escape(change.kernels)}</b>{commit} {escape(change.why)}{source}</p>"


# ------------------------------------------------------------------ the details


def _data(matrix: Matrix) -> str:
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
    return text.replace("<", "\\u003c")


def _details(cell: Cell) -> dict[str, Any]:
    details: dict[str, Any] = {"kind": cell.kind, "words": cell.words}
    steps = [
        {"label": step["label"], "text": step["text"], "back": list(_written_back(step))}
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


def _written_back(step: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``gpa 0x0 → 0x4000`` for what a populate wrote back, changed or not."""
    asked, back = step.get("asked"), step.get("written_back")
    if not asked or not back:
        return
    pages = "INIT_MEM_REGION" in str(step["label"])
    names = ("gpa", "source", "pages left" if pages else "bytes left")
    for name, before, after in zip(names, asked, back, strict=False):
        was, now = (str(before), str(after)) if name == "pages left" else (hex(before), hex(after))
        yield f"{name} {was} → {now}" if was != now else f"{name} {was}, untouched"
