# SPDX-License-Identifier: MIT
"""Whether a difference broke something, by the contract: what a kernel promises of a scenario.

An outcome that some generation of kernels promises is a changed promise, not a broken one: a series
that undoes a fix shows as that. A crash, and a report of a bug that the kernel makes with the
series alone, is broken whatever is promised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from kvmharness.contract.rows import Contract, ContractError
from kvmharness.matrix import explain
from kvmharness.matrix.explain import outcome_of
from kvmharness.matrix.model import CRASH, ERROR, HANG, SKIP, Cell, Column
from kvmharness.release import NotARelease
from kvmharness.review.model import Difference, Kind, Side

_NUMBER = re.compile(r"[0-9]+")


def side(
    contract: Contract,
    before: Column,
    after: Column,
    vm_type: str,
    summaries: Mapping[str, str],
    meant: Collection[str] = (),
) -> Side:
    """Return the comparison of two columns. `meant`: scenarios whose change is intended."""
    if before.absent or after.absent:
        return _side_without_outcomes(before, after, vm_type)
    differences: list[Difference] = []
    not_run: dict[str, int] = {}
    compared = 0
    unknown = ""
    for scenario, summary in summaries.items():
        cells = _judged(contract, scenario, before), _judged(contract, scenario, after)
        if not any(cell.ran for cell in cells):
            not_run[cells[0].reason] = not_run.get(cells[0].reason, 0) + 1
            continue
        if failed := next((cell for cell in cells if cell.result == ERROR), None):
            unknown = unknown or f"{scenario} failed by itself: {failed.reason}"
            continue
        compared += 1
        if cells[0].alike(cells[1]) and (left := leaked(*cells)):
            why = f"when it is over the kernel still holds {'; '.join(left)}"
            differences.append(Difference(scenario, summary, *cells, "broken", why))
        elif not cells[0].alike(cells[1]):
            kind, why = verdict(contract, scenario, after.label.kernel, *cells)
            if kind == "broken" and scenario in meant:
                kind, why = "changed", f"it is said to be meant; {why}"
            differences.append(Difference(scenario, summary, *cells, kind, why))
    return Side(vm_type, before, after, tuple(differences), compared, not_run, unknown)


def _judged(contract: Contract, scenario: str, column: Column) -> Cell:
    cell = column.cells[scenario]
    return replace(cell, contract=explain.verdict(contract, scenario, column, cell))


def _side_without_outcomes(before: Column, after: Column, vm_type: str) -> Side:
    """Return what it means that a host was not had or observed nothing."""
    nothing = Side(vm_type, before, after, (), 0)
    if before.absent:
        # A skip says that there is no such host for this kernel, an error that it went wrong.
        skipped = all(cell.result == SKIP for cell in before.cells.values())
        if skipped:
            return replace(nothing, absent=before.absent)
        return replace(nothing, unknown=before.absent)
    return replace(nothing, down=after.absent)


def verdict(
    contract: Contract, scenario: str, release: str, before: Cell, after: Cell
) -> tuple[Kind, str]:
    """Return what a difference comes to on kernel `release`, and why."""
    if after.result in (CRASH, HANG):
        return "broken", after.reason or f"it ended in a {after.result}"
    if after.result == SKIP:
        return "broken", f"it can no longer run: {after.reason}"
    if new := sorted(set(after.log or ()) - set(before.log or ())):
        return "broken", f"the kernel reports a bug in itself: {', '.join(new)}"
    try:
        held_to = contract.rows_for(scenario, release)
    except (ContractError, NotARelease):
        return "changed", "no kernel promises anything of it"
    outcome = outcome_of(scenario, after)
    for row in held_to:
        if row.keeps(outcome):
            again = "" if _keeps(contract, scenario, release, before) else "; it was not before"
            return "changed", f"it is as promised of {row.kernels}{again}"
    for row in contract.of(scenario):
        if row.keeps(outcome):
            why = f": {row.why}" if row.why else ""
            commit = f" [commit {', '.join(held_to[-1].commit)}]" if held_to[-1].commit else ""
            return "changed", f"it is what the contract says of {row.kernels}{why}{commit}"
    if not _keeps(contract, scenario, release, before):
        return "changed", "neither with nor without the series is it as promised"
    return "broken", "; ".join(_promised(contract, scenario, release))


def leaked(before: Cell, after: Cell) -> list[str]:
    """Return what the kernel still held with the series alone when the scenario was over.

    By its kind: how much of it is left, and the number of a process, differ from boot to boot.
    """
    known = {_NUMBER.sub("", line) for line in before.held}
    return [line for line in after.held if _NUMBER.sub("", line) not in known]


def _promised(contract: Contract, scenario: str, release: str) -> Iterator[str]:
    for row in contract.rows_for(scenario, release):
        texts = ", or ".join("; ".join(map(str, one.outcome)) for one in row.promised)
        why = f", because {row.why}" if row.why else ""
        yield f"promised ({row.kernels}): {texts}{why} [{row.origin}]"


def _keeps(contract: Contract, scenario: str, release: str, cell: Cell) -> bool:
    if not cell.steps:
        return False
    outcome = outcome_of(scenario, cell)
    return any(row.keeps(outcome) for row in contract.rows_for(scenario, release))
