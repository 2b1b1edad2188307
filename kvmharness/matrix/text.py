# SPDX-License-Identifier: MIT
"""A matrix for a mail: plain ASCII, 76 columns; what changed first, the rest in a line each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from kvmharness.matrix.model import Cell, Column, Matrix, Row
from kvmharness.matrix.table import reasons

WIDTH = 76


def render(matrix: Matrix) -> str:
    """Return the matrix as lines of at most WIDTH characters of ASCII."""
    lines = [line.rstrip() for line in _lines(matrix)]
    return "".join(f"{_ascii(line)}\n" for line in lines)


def _lines(matrix: Matrix) -> Iterator[str]:
    yield from _wrap(f"{matrix.vm_type} scenarios on {_listed(matrix)}, {matrix.date[:10]}")
    yield from _wrap(matrix.label_words())
    for column in matrix.columns:
        if column.absent:
            yield from _wrap(f"{column.short}: {column.absent}", "  ")
    changed = matrix.changed
    if changed:
        yield from _heading(f"{len(changed)} of {len(matrix.rows)} scenarios differ")
        for group in _alike(changed, matrix):
            yield from _differing(group, matrix)
    elif len(matrix.columns) > 1:
        yield from _heading(f"none of {len(matrix.rows)} scenarios differs")
    rest = [row for row in matrix.rows if not row.changed]
    if rest:
        yield from _heading("alike on every kernel that could run them" if changed else "outcomes")
        yield from _table(rest, matrix)
    yield ""
    yield f"made with kvmharness {matrix.version}"


def _listed(matrix: Matrix) -> str:
    """Return the kernels as ``Linux 6.12.107, 7.3.4``; a tree's with the release it built."""
    return "Linux " + ", ".join(_column(column) for column in matrix.columns)


def _column(column: Column) -> str:
    return column.short if column.tells_release else f"{column.short} ({column.label.kernel})"


def _heading(text: str) -> Iterator[str]:
    yield ""
    yield text
    yield "-" * len(text)


# ------------------------------------------------------------------ what changed


def _alike(rows: list[Row], matrix: Matrix) -> list[list[Row]]:
    """Group the rows that changed in the same way, so that a reader meets each change once."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        key = (
            tuple((row.cells[name].words, row.cells[name].contract) for name in matrix.names),
            row.changes,
        )
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _differing(rows: list[Row], matrix: Matrix) -> Iterator[str]:
    yield ""
    for row in rows:
        yield from _wrap(f"{row.id}: {row.summary}", "", "    ")
    first = rows[0]
    runs = first.steps_apart(matrix.names)
    kernels = [_run(matrix, names) for names, _ in runs]
    width = max(len(words) for words in kernels)
    for words, (_, cell) in zip(kernels, runs, strict=True):
        lead = f"  {words:<{width}}  "
        yield from _wrap(_cell(cell), lead, " " * len(lead))
    for reason in reasons(matrix, first):
        yield from _wrap(reason, "  > ", "    ")


def _run(matrix: Matrix, names: list[str]) -> str:
    shorts = [matrix.column(name).short for name in names]
    return shorts[0] if len(shorts) == 1 else f"{shorts[0]} to {shorts[-1]}"


def _cell(cell: Cell) -> str:
    words = cell.words
    if not cell.ran:
        words = f"not run: {cell.reason}"
    elif cell.reason:
        words = f"{words}: {cell.reason}"
    return words + (" (breaks the contract)" if cell.contract == "broken" else "")


# ------------------------------------------------------------------ the rest


def _table(rows: list[Row], matrix: Matrix) -> Iterator[str]:
    width = max(len(row.id) for row in rows)
    for row in rows:
        ran = [name for name in matrix.names if row.cells[name].ran]
        if ran:
            words = _cell(row.cells[ran[0]])
            if len(ran) < len(matrix.names):
                lacking = [matrix.column(n).short for n in matrix.names if n not in ran]
                words += f" (not run on {', '.join(lacking)})"
        else:
            words = _cell(row.cells[matrix.names[0]])
        lead = f"{row.id:<{width}}  "
        if width > WIDTH // 2 + 6:
            lead = f"{row.id}  "
        yield from _wrap(words, lead, "    ")


def _wrap(text: str, lead: str = "", following: str | None = None) -> list[str]:
    return textwrap.wrap(
        _ascii(text),
        WIDTH,
        initial_indent=_ascii(lead),
        subsequent_indent=lead if following is None else following,
        break_on_hyphens=False,
    ) or [lead]


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
