# SPDX-License-Identifier: MIT
"""Two matrices made elsewhere, held against each other: a lab's hardware and emulation, say.

Kernels are paired by series: 7.3.4 of one with 7.3.1 of the other. What is left has no partner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kvmharness.errors import UsageError
from kvmharness.matrix.model import Cell, Column, Matrix
from kvmharness.release import NotARelease, parse_series
from kvmharness.scenarios.step import Call


@dataclass(frozen=True)
class Difference:
    """A scenario that came out differently: on `left` of one matrix and `right` of the other."""

    scenario: str
    left: Column
    right: Column
    left_cell: Cell
    right_cell: Cell

    @property
    def silicon(self) -> bool:
        """Whether one of both is hardware and the other a stand-in: the stand-in may be wrong."""
        return self.left.label.emulated != self.right.label.emulated

    @property
    def firmware(self) -> bool:
        """Whether nothing but a firmware code is different: that is the stand-in's own."""
        return _without_firmware(self.left_cell).alike(_without_firmware(self.right_cell))


@dataclass(frozen=True)
class Comparison:
    """The pairs of kernels compared, what differed, and what could not be compared."""

    left: Matrix
    right: Matrix
    pairs: tuple[tuple[Column, Column], ...]
    differences: tuple[Difference, ...]
    compared: int
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    not_run: tuple[tuple[str, str], ...]


def compare(left: Matrix, right: Matrix) -> Comparison:
    """Compare two matrices. UsageError where they have nothing in common."""
    if left.vm_type != right.vm_type:
        raise UsageError(
            f"one matrix is about {left.vm_type} VMs, the other about {right.vm_type} VMs"
        )
    pairs = tuple(_pairs(left, right))
    if not pairs:
        raise UsageError(
            f"no kernel series is in both: {', '.join(c.short for c in left.columns)} and "
            f"{', '.join(c.short for c in right.columns)}"
        )
    ids_left, ids_right = ({row.id for row in matrix.rows} for matrix in (left, right))
    differences, not_run, compared = [], [], 0
    for one, other in pairs:
        for row in left.rows:
            if row.id not in ids_right:
                continue
            cells = one.cells[row.id], other.cells[row.id]
            if not (cells[0].ran and cells[1].ran):
                reason = next(cell.reason for cell in cells if not cell.ran)
                not_run.append((row.id, reason))
                continue
            compared += 1
            if not cells[0].alike(cells[1]):
                differences.append(Difference(row.id, one, other, *cells))
    return Comparison(
        left,
        right,
        pairs,
        tuple(differences),
        compared,
        tuple(sorted(ids_left - ids_right)),
        tuple(sorted(ids_right - ids_left)),
        tuple(not_run),
    )


def render(comparison: Comparison) -> str:
    """Return the comparison as text: each difference, then what was and was not compared."""
    return "".join(f"{line}\n" for line in _lines(comparison))


def _lines(comparison: Comparison) -> Iterator[str]:
    for one, other in comparison.pairs:
        yield f"{one.label.words}"
        yield f"  against {other.label.words}"
        found = [d for d in comparison.differences if d.left is one and d.right is other]
        for difference in found:
            yield from _difference(difference)
        if not found:
            yield "  no scenario that ran on both differs"
        yield ""
    silicon = [d for d in comparison.differences if d.silicon]
    yield f"{comparison.compared} outcomes compared, {len(comparison.differences)} differ"
    if silicon:
        firmware = sum(d.firmware for d in silicon)
        yield (
            f"{len(silicon)} of them between hardware and a stand-in: the stand-in is wrong there, "
            f"or the machine is special ({firmware} in nothing but a firmware code)"
        )
    for reason, ids in _grouped(comparison.not_run).items():
        yield f"not compared, {len(ids)} scenarios: {reason}"
    for words, only in (("first", comparison.only_left), ("second", comparison.only_right)):
        if only:
            yield f"only in the {words}: {', '.join(only)}"


def _difference(difference: Difference) -> Iterator[str]:
    yield f"  {difference.scenario}"
    for column, cell in (
        (difference.left, difference.left_cell),
        (difference.right, difference.right_cell),
    ):
        where = "emulated" if column.label.emulated else "native"
        words = f"{cell.words}: {cell.reason}" if cell.reason else cell.words
        yield f"    {where:<8}  {column.short:<10}  {words}"


def _pairs(left: Matrix, right: Matrix) -> Iterator[tuple[Column, Column]]:
    """Pair kernels of the same release, then those left that are of the same series."""
    partners: dict[str, Column] = {}
    free = [column for column in right.columns if not column.absent]
    for alike in (lambda column: column.label.kernel, _series):
        for column in left.columns:
            if column.absent or column.name in partners:
                continue
            if found := [other for other in free if alike(other) == alike(column)]:
                partners[column.name] = found[0]
                free.remove(found[0])
    for column in left.columns:
        if column.name in partners:
            yield column, partners[column.name]


def _series(column: Column) -> tuple[int, int] | str:
    try:
        return parse_series(column.label.kernel)
    except NotARelease:
        return column.label.kernel


def _without_firmware(cell: Cell) -> Cell:
    steps = (
        replace(step, fw_error=None, fw_error_name="") if isinstance(step, Call) else step
        for step in cell.steps
    )
    return replace(cell, steps=tuple(steps))


def _grouped(not_run: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for scenario, reason in not_run:
        groups.setdefault(reason, []).append(scenario)
    return groups
