# SPDX-License-Identifier: MIT
"""What the contract knows of a matrix: which outcomes it promises, and what made others change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from kvmharness.contract.rows import Contract, ContractError
from kvmharness.contract.rows import Row as Promise
from kvmharness.matrix.model import NOT_OUTCOMES, Cell, Change, Column, Row
from kvmharness.release import NotARelease
from kvmharness.scenarios.outcome import Outcome


def rows(contract: Contract, columns: Sequence[Column], summaries: Mapping[str, str]) -> list[Row]:
    """Return a row for each scenario of `summaries`: its cells judged, its changes explained."""
    return [_row(contract, columns, scenario, summary) for scenario, summary in summaries.items()]


def _row(contract: Contract, columns: Sequence[Column], scenario: str, summary: str) -> Row:
    cells = {}
    for column in columns:
        cell = column.cells[scenario]
        cells[column.name] = replace(cell, contract=verdict(contract, scenario, column, cell))
    ran = [column for column in columns if cells[column.name].ran]
    changes = [
        _explain(contract, scenario, before, after, cells)
        for before, after in pairwise(ran)
        if not cells[before.name].alike(cells[after.name])
    ]
    return Row(scenario, summary, cells, tuple(changes))


def verdict(contract: Contract, scenario: str, column: Column, cell: Cell) -> str:
    """Return whether a cell is as promised: ``kept``, ``broken``, or empty for no promise."""
    if cell.result in NOT_OUTCOMES:
        return ""
    try:
        promises = contract.rows_for(scenario, column.label.kernel)
    except (ContractError, NotARelease):
        return ""
    outcome = outcome_of(scenario, cell)
    return "kept" if any(promise.keeps(outcome) for promise in promises) else "broken"


def _explain(
    contract: Contract, scenario: str, before: Column, after: Column, cells: Mapping[str, Cell]
) -> Change:
    """Say what made the outcome change from one kernel to another, if the contract knows.

    Between kernels of two generations it is the later one's row; the other way round (a kernel
    that was older on the left) it is the row of the kernel on the left.
    """
    unexplained = Change(before.name, after.name)
    old, new = (_promise(contract, scenario, c, cells[c.name]) for c in (before, after))
    if old is None or new is None:
        return unexplained
    if old is new:
        return _within(new, scenario, before, after, cells)
    backwards = new.generation.order < old.generation.order
    new = old if backwards else new
    return Change(
        before.name,
        after.name,
        commit=", ".join(new.commit),
        why=new.why,
        source="; ".join(new.read),
        kernels=new.kernels,
    )


def _within(
    promise: Promise, scenario: str, before: Column, after: Column, cells: Mapping[str, Cell]
) -> Change:
    """Explain two outcomes that one row promises: the alternative's reason, if it has one."""
    for column in (after, before):
        outcome = outcome_of(scenario, cells[column.name])
        for each in promise.alternatives:
            if each.is_shown_by(outcome) and each.why:
                return Change(before.name, after.name, why=each.why, kernels=column.short)
    return Change(
        before.name,
        after.name,
        why=promise.why,
        source="; ".join(promise.read),
        kernels=promise.kernels,
    )


def _promise(contract: Contract, scenario: str, column: Column, cell: Cell) -> Promise | None:
    """Return the promise that the outcome keeps, of those that this kernel is held to."""
    if cell.result in NOT_OUTCOMES:
        return None
    try:
        promises = contract.rows_for(scenario, column.label.kernel)
    except (ContractError, NotARelease):
        return None
    outcome = outcome_of(scenario, cell)
    return next((promise for promise in promises if promise.keeps(outcome)), None)


def outcome_of(scenario: str, cell: Cell) -> Outcome:
    """Return what a cell shows of a scenario, as the contract is asked about it."""
    return Outcome(scenario, list(cell.steps), log=None if cell.log is None else list(cell.log))
