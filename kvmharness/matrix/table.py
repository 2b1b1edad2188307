# SPDX-License-Identifier: MIT
"""A matrix as a table on a terminal: the rows on which kernels differ, or all of them."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmharness.matrix.model import KINDS, NOT_OUTCOMES, Cell, Change, Kind, Matrix, Row

STYLES: dict[Kind, str] = {
    "ok": "green",
    "partial": "cyan",
    "refused": "yellow",
    "firmware": "magenta",
    "warning": "bold red",
    "crash": "bold white on red",
    "skip": "dim",
}


def show(console: Console, matrix: Matrix, *, everything: bool = False) -> None:
    """Print the table: rows that changed and, if asked for or if there is one kernel, the rest.

    What is like the cell to its left is dim, so that differences stand out. What changed an outcome
    is a number in the last column, and a note below: one change often moves many rows.
    """
    everything = everything or len(matrix.columns) < 2
    rows = list(matrix.rows) if everything else matrix.changed
    rows = [row for row in rows if any(cell.ran for cell in row.cells.values())]
    _absent(console, matrix)
    if all(column.absent for column in matrix.columns):
        return
    if rows:
        notes: dict[str, int] = {}
        console.print(_table(matrix, rows, notes, console.width))
        _notes(console, notes)
    _not_run(console, matrix)
    console.print(_summary(matrix, everything))
    if rows:
        console.print(_legend(rows))
    if matrix.emulated:
        console.print(Text(matrix.label_words(), style="bold yellow"))


def _absent(console: Console, matrix: Matrix) -> None:
    for column in matrix.columns:
        if column.absent:
            console.print(Text(f"{column.short}: {column.absent}", style="yellow"))


def _not_run(console: Console, matrix: Matrix) -> None:
    """Say why scenarios have no outcome, each reason once."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for row in matrix.rows:
        for column in matrix.columns:
            cell = row.cells[column.name]
            if cell.result in NOT_OUTCOMES and not column.absent:
                reason = f"{cell.result}: {cell.reason}"
                reasons.setdefault(reason, {}).setdefault(column.short, []).append(row.id)
    for reason, columns in reasons.items():
        for short, ids in columns.items():
            which = ids[0] if len(ids) == 1 else f"{len(ids)} scenarios"
            console.print(Text(f"{short}: {which}: {reason}", style="yellow"))


def _table(matrix: Matrix, rows: list[Row], notes: dict[str, int], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    # The ids whole where there is room for them, the outcomes folded.
    ids = min(max(len(row.id) for row in rows), max(18, width // 3))
    each = max((width - ids - 7) // len(matrix.columns) - 2, 8)
    table.add_column(f"{matrix.vm_type} scenario", overflow="fold", width=ids)
    for column in matrix.columns:
        name = column.short + ("" if column.label.emulated else " (native)")
        table.add_column(name, overflow="fold", max_width=each)
    if len(matrix.columns) > 1:
        table.add_column("why", style="dim", no_wrap=True)
    for row in rows:
        cells, left = [], None
        for name in matrix.names:
            cells.append(_cell(row.cells[name], left))
            left = row.cells[name]
        why = [Text(_numbers(matrix, row, notes))] if len(matrix.columns) > 1 else []
        table.add_row(Text(row.id, style="bold" if row.changed else ""), *cells, *why)
    return table


def _numbers(matrix: Matrix, row: Row, notes: dict[str, int]) -> str:
    numbers = [notes.setdefault(words, len(notes) + 1) for words in reasons(matrix, row)]
    return " ".join(str(number) for number in numbers)


def _notes(console: Console, notes: dict[str, int]) -> None:
    if not notes:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim")
    grid.add_column(overflow="fold")
    for words, number in notes.items():
        grid.add_row(str(number), Text(words))
    console.print()
    console.print(grid)
    console.print()


def _cell(cell: Cell, left: Cell | None) -> Text:
    style = STYLES[cell.kind]
    if left is not None and cell.alike(left):
        style = "dim " + style.removeprefix("bold ")
    text = Text(cell.brief, style=style)
    if cell.contract == "broken":
        text.append(" (breaks the contract)", style="bold red")
    return text


def reasons(matrix: Matrix, row: Row) -> list[str]:
    """Return what changed the outcomes of a row, each reason once."""
    return list(dict.fromkeys(change_words(matrix, change) for change in row.changes))


def change_words(matrix: Matrix, change: Change) -> str:
    """Say in a line what changed an outcome, and from which kernel on."""
    source = f"commit {change.commit}" if change.commit else change.source
    if not source and not change.why:
        short = matrix.column(change.after).short
        return f"{short}: the contract knows of no such change"
    return f"{change.kernels}: {change.why or 'no reason noted'}" + (f" [{source}]" * bool(source))


def _summary(matrix: Matrix, everything: bool) -> Text:
    changed = len(matrix.changed)
    alike = len(matrix.rows) - changed
    if len(matrix.columns) < 2:
        text = Text(f"{len(matrix.rows)} scenarios")
    else:
        text = Text(f"{changed} of {len(matrix.rows)} scenarios differ between the kernels", "bold")
    if alike and not everything:
        text.append(f"; {alike} are alike (--all shows them)", style="not bold dim")
    broken = Counter(
        matrix.column(name).short
        for row in matrix.rows
        for name, cell in row.cells.items()
        if cell.contract == "broken"
    )
    for short, times in broken.items():
        text.append(f"\n{short}: {times} not as the contract promises", style="bold red")
    return text


def _legend(rows: list[Row]) -> Text:
    present = {cell.kind for row in rows for cell in row.cells.values()}
    text = Text()
    for kind, words in KINDS.items():
        if kind in present:
            text.append("  " if text else "")
            text.append(f"{kind}", style=STYLES[kind])
            text.append(f": {words}", style="dim")
    return text
