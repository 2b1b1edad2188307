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
