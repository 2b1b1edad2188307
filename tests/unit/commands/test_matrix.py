# SPDX-License-Identifier: MIT
"""What a matrix that is cut short, or has a kernel that observes nothing, shows all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kvmharness.commands.matrix import matrix
from kvmharness.errors import UsageError
from kvmharness.labels import HostLabel
from kvmharness.matrix import collect
from kvmharness.matrix.collect import Place, Request
from kvmharness.matrix.model import ERROR, SKIP, Cell, Column

ARGUMENTS = ["snp.source.aligned", "--kernel", "6.12", "--kernel", "7.3"]


def column(release: str, cell: Cell, absent: str = "") -> Column:
    return Column(
        release, HostLabel("emulated-snp", release), {}, {"snp.source.aligned": cell}, absent
    )


def test_what_was_seen_before_an_interruption_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(places: Sequence[Place], request: Request) -> Iterator[Column]:
        yield column("6.12.117", Cell(SKIP, "as it was seen"))
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "collect", interrupted)
    written = tmp_path / "matrix.json"
    result = CliRunner().invoke(matrix, [*ARGUMENTS, "--json", str(written)], standalone_mode=False)
    assert isinstance(result.exception, click.Abort)  # the command line's status 130
    (row,) = json.loads(written.read_text())["scenarios"]
    assert row["outcomes"]["6.12.117"]["reason"] == "as it was seen"
    assert row["outcomes"]["7.3"]["result"] == "error"
    assert "interrupted before it was observed" in row["outcomes"]["7.3"]["reason"]


def test_each_module_option_is_a_column_beside_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def observed(places: Sequence[Place], request: Request) -> Iterator[Column]:
        seen.extend(place.wanted for place in places)
        return (column(place.wanted, Cell(SKIP, "as it was seen")) for place in places)

    monkeypatch.setattr(collect, "collect", observed)
    options = ["--module-option", "kvm.tdp_mmu=0", "--module-option", "kvm.a=1  kvm_amd.b=2"]
    CliRunner().invoke(matrix, [*ARGUMENTS, *options], standalone_mode=False)
    assert seen == [
        *("6.12", "6.12 kvm.tdp_mmu=0", "6.12 kvm.a=1 kvm_amd.b=2"),
        *("7.3", "7.3 kvm.tdp_mmu=0", "7.3 kvm.a=1 kvm_amd.b=2"),
    ]


def test_modules_of_ones_own_are_a_column_beside_their_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def observed(places: Sequence[Place], request: Request) -> Iterator[Column]:
        seen.extend(place.wanted for place in places)
        return (column(place.wanted, Cell(SKIP, "as it was seen")) for place in places)

    monkeypatch.setattr(collect, "collect", observed)
    for name in ("kvm.ko", "mine.ko"):
        (tmp_path / name).touch()
    options = [*ARGUMENTS[:3], "--module", f"kvm={tmp_path}/kvm.ko"]
    options += ["--module", f"kvm-amd={tmp_path}/mine.ko"]
    CliRunner().invoke(matrix, options, standalone_mode=False)
    assert seen == ["6.12", "6.12+kvm.ko+mine.ko"]
    options += ["--module-option", "kvm.tdp_mmu=0"]
    CliRunner().invoke(matrix, options, standalone_mode=False)
    assert seen[2:] == [
        *("6.12", "6.12 kvm.tdp_mmu=0"),
        *("6.12+kvm.ko+mine.ko", "6.12+kvm.ko+mine.ko kvm.tdp_mmu=0"),
    ]


@pytest.mark.parametrize("option", ["kvm:tdp_mmu=0", "tdp_mmu=0", "kvm.tdp_mmu", "", "kvm.a=1 b"])
def test_what_is_no_module_option_is_refused(option: str) -> None:
    result = CliRunner().invoke(matrix, ["--module-option", option], standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert "give MODULE.NAME=VALUE" in str(result.exception)


@pytest.mark.parametrize(
    ("cell", "status"), [(Cell(ERROR, "it did not boot"), 1), (Cell(SKIP, "no such kernel"), 4)]
)
def test_a_kernel_that_observed_nothing_is_a_failure_and_one_that_is_not_there_a_skip(
    monkeypatch: pytest.MonkeyPatch, cell: Cell, status: int
) -> None:
    columns = [column("6.12.117", cell, cell.reason), column("7.3.4", cell, cell.reason)]
    monkeypatch.setattr(collect, "collect", lambda places, request: iter(columns))
    result = CliRunner().invoke(matrix, ARGUMENTS, standalone_mode=False)
    assert result.return_value == status
