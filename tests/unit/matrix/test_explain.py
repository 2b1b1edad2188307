# SPDX-License-Identifier: MIT
"""What the contract says of a matrix: promises kept and broken, and what changed an outcome."""

from __future__ import annotations

from kvmharness.contract.rows import Alternative, Contract
from kvmharness.matrix import explain
from kvmharness.matrix.model import Column, Row

from ..steps import promises
from .samples import CONTRACT, cell, column, columns, matrix, promise, skip


def row(name: str, *made: Column, contract: Contract = CONTRACT) -> Row:
    return explain.rows(contract, made, {name: ""})[0]


def test_a_change_names_its_commit_reason_and_generation() -> None:
    changed = {row.id: row for row in matrix().changed}
    (change,) = changed["snp.source.unaligned"].changes
    assert (change.before, change.after) == ("6.12.107-amd64", "7.2.12-amd64")
    assert (change.commit, change.kernels) == ("dcbcc2323c80", "from 7.0")
    assert change.why == "the source has to be page aligned"


def test_a_kernel_that_could_not_run_it_is_no_change() -> None:
    assert not row("snp.source.mapped", *columns()).changed
    one, _, three = columns()
    lacking = column("7.2.12", {"snp.source.unaligned": skip()})
    (change,) = row("snp.source.unaligned", one, lacking, three).changes
    assert (change.before, change.after) == (one.name, three.name)


def test_older_kernels_on_the_right_are_explained_by_the_newer_row() -> None:
    old, _, new = columns()
    (change,) = row("snp.source.unaligned", new, old).changes
    assert change.commit == "dcbcc2323c80"


def test_promises_kept_broken_and_not_made() -> None:
    patched = column("7.3.4", {"snp.source.unaligned": cell("ok"), "x.y": cell("ok")})
    shown = row("snp.source.unaligned", patched)
    assert shown.cells["7.3.4-amd64"].contract == "broken"
    assert row("snp.source.unaligned", columns()[0]).cells["6.12.107-amd64"].contract == "kept"
    assert row("x.y", patched).cells["7.3.4-amd64"].contract == ""


def test_a_change_the_contract_does_not_know_is_left_unexplained() -> None:
    base, patched = columns()[2], column("7.4.0", {"snp.source.aligned": cell("EPERM")})
    (change,) = row("snp.source.aligned", base, patched).changes
    assert (change.commit, change.why, change.source) == ("", "", "")


def test_two_outcomes_of_one_row_are_explained_by_the_alternative() -> None:
    other = Alternative(promises("ENOTTY"), why="built without it")
    contract = Contract([promise("attr.set", "EINVAL", why="no", alternatives=(other,))])
    one = column("6.18.1", {"attr.set": cell("ENOTTY")})
    two = column("7.3.4", {"attr.set": cell("EINVAL")})
    (change,) = row("attr.set", one, two, contract=contract).changes
    assert (change.why, change.kernels) == ("built without it", "6.18.1")
