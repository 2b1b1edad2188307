# SPDX-License-Identifier: MIT
"""Two matrices held against each other."""

from __future__ import annotations

import pytest

from kvmharness.errors import UsageError
from kvmharness.matrix import compare
from kvmharness.matrix.model import Column, Matrix

from .samples import cell, column, columns, matrix, skip


def native(release: str, **cells: str) -> Column:
    base = dict(columns()[2].cells)
    base |= {name.replace("__", "."): cell(text) for name, text in cells.items()}
    return column(release, base, kind="native")


def against(*right: Column) -> compare.Comparison:
    return compare.compare(matrix(), matrix(right))


def test_what_agrees() -> None:
    result = against(*columns())
    assert [(a.name, b.name) for a, b in result.pairs] == [(c.name, c.name) for c in columns()]
    assert result.differences == ()
    assert result.compared == 14
    assert result.not_run == (("snp.source.mapped", "no such thing here"),)


def test_silicon_against_a_stand_in() -> None:
    result = against(native("7.3.1", snp__state__finish="ok", snp__source__mapped="ok +2 left 2"))
    assert [(a.short, b.short) for a, b in result.pairs] == [("7.3.4", "7.3.1")]
    found = {difference.scenario: difference for difference in result.differences}
    assert set(found) == {"snp.state.finish", "snp.source.mapped"}
    assert all(difference.silicon for difference in found.values())
    printed = compare.render(result)
    assert "emulated  7.3.4       EIO" in printed
    assert "native    7.3.1       ok +2 left 2" in printed
    assert "2 of them between hardware and a stand-in" in printed


def test_nothing_but_a_firmware_code_is_told_apart() -> None:
    base = dict(columns()[2].cells)
    base["snp.state.finish"] = cell("ok", "EIO fw=POLICY_FAILURE")
    result = against(column("7.3.4", base, kind="native"))
    (difference,) = result.differences
    assert difference.firmware
    assert "(1 in nothing but a firmware code)" in compare.render(result)


def test_kernels_are_paired_by_release_before_series() -> None:
    left = matrix([native("7.3.1"), native("7.3.4")])
    right = matrix([native("7.3.4"), native("7.3.9")])
    pairs = compare.compare(left, right).pairs
    # 7.3.4 has its like; what is left of the series goes to what is left.
    assert {(a.short, b.short) for a, b in pairs} == {("7.3.4", "7.3.4"), ("7.3.1", "7.3.9")}


def test_what_could_not_run_is_said() -> None:
    cells = {name: skip("no SNP here") for name in columns()[0].cells}
    printed = compare.render(against(column("7.3.4", cells, kind="native")))
    assert "not compared, 5 scenarios: no SNP here" in printed


def test_matrices_with_nothing_in_common() -> None:
    with pytest.raises(UsageError, match="no kernel series is in both"):
        against(native("5.10.1"))
    tdx = matrix()
    tdx = Matrix("tdx", tdx.date, tdx.columns, tdx.rows)
    with pytest.raises(UsageError, match="about snp VMs, the other about tdx VMs"):
        compare.compare(matrix(), tdx)
