# SPDX-License-Identifier: MIT
"""What the first host of a run showed is kept, whatever the second one comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvmharness.commands import run as command
from kvmharness.errors import UsageError
from kvmharness.labels import HostLabel
from kvmharness.report.records import Record
from kvmharness.report.result import HostResult
from kvmharness.suite import run as suite
from kvmharness.suite.kernel_coverage import KernelCoverage

ARGUMENTS = ["a.b", "--host", "emulated-snp", "--host", "emulated-tdx"]


class Host:
    facts: dict[str, object] = {}  # noqa: RUF012


def play(monkeypatch: pytest.MonkeyPatch, *, wrong: str) -> None:
    """Have each host pass one test, but for the one called `wrong`, where the selection is none."""

    def run_suite(host: Any, request: Any, result: HostResult, on_event: Any) -> None:
        if result.label.kind == wrong:
            raise UsageError("no test is called 'a.b'")
        result.records.append(Record.of(result.label, "a.b", "a.b", "passed"))

    monkeypatch.setattr(
        command, "_host", lambda place, coverage: (Host(), HostLabel(place.kind, "7.3.4"))
    )
    monkeypatch.setattr(suite, "run_suite", run_suite)


def test_wrong_usage_on_the_second_host_is_an_error_of_its(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play(monkeypatch, wrong="emulated-tdx")
    report = tmp_path / "report.json"
    options = [*ARGUMENTS, "--json", str(report)]
    result = CliRunner().invoke(command.run, options, standalone_mode=False)
    assert result.return_value == 1
    records = json.loads(report.read_text())["records"]
    outcomes = [(record["host"], record["outcome"], record["reason"]) for record in records]
    assert outcomes == [
        ("emulated-snp", "passed", ""),
        ("emulated-tdx", "error", "no test is called 'a.b'"),
    ]


def test_wrong_usage_on_the_first_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, wrong="emulated-snp")
    result = CliRunner().invoke(command.run, ARGUMENTS, standalone_mode=False)
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize(("below", "status"), [(True, 1), (False, 0)])
def test_a_function_below_its_floor_fails_a_run_that_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: bool, status: int
) -> None:
    play(monkeypatch, wrong="")
    monkeypatch.setattr(KernelCoverage, "show", lambda self, console: below)
    options = [*ARGUMENTS, "--kernel-coverage", str(tmp_path)]
    result = CliRunner().invoke(command.run, options, standalone_mode=False)
    assert result.return_value == status
