# SPDX-License-Identifier: MIT
"""ci/coverage_floors: floors rise by themselves, and fall with a reason only."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from kvmharness.resources import checkout_dir

TOOL = (checkout_dir() or Path()) / "ci" / "coverage_floors"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("coverage_floors", str(TOOL))
    spec = importlib.util.spec_from_loader("coverage_floors", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "FLOORS", tmp_path / "floors.toml")
    module.FLOORS.write_text('[emulated-snp."7.3"]\nlaunch = 50\nfinish = 70\n')
    return module


def _run(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, reached: dict[str, int], *options: str
) -> tuple[int, dict[str, object]]:
    functions = [{"function": name, "percent": percent} for name, percent in reached.items()]
    file = tool.FLOORS.parent / "run.json"
    told = {"kind": "emulated-snp", "kernel": "7.3.4-amd64", "functions": functions}
    file.write_text(json.dumps(told))
    monkeypatch.setattr(sys, "argv", ["coverage_floors", *options, str(file)])
    status = tool.main()
    return status, tomllib.loads(tool.FLOORS.read_text())["emulated-snp"]["7.3"]


def test_floors_rise_and_new_functions_get_one(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, floors = _run(tool, monkeypatch, {"launch": 60, "finish": 70, "start": 5})
    assert (status, floors) == (0, {"launch": 60, "finish": 70, "start": 5})


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        ({"launch": 40, "finish": 70}, "launch: 40 %, and its floor is 50 %"),
        ({"finish": 70}, "launch: gone, and its floor is 50 %"),
    ],
)
def test_what_falls_without_a_reason_is_said_and_kept(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reached: dict[str, int],
    said: str,
) -> None:
    status, floors = _run(tool, monkeypatch, reached)
    assert (status, floors) == (1, {"launch": 50, "finish": 70})
    assert capsys.readouterr().err == f"emulated-snp 7.3: {said}\n"


def test_a_floor_falls_with_its_reason(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "--lower=launch=the stand-in no longer fails"
    status, floors = _run(tool, monkeypatch, {"launch": 40, "finish": 70}, reason)
    assert status == 0
    lowered = {"floor": 40, "was": 50, "because": "the stand-in no longer fails"}
    assert floors == {"launch": lowered, "finish": 70}


def test_of_several_files_the_least_counts(tool: ModuleType) -> None:
    files = [
        {"kind": "k", "kernel": "7.3.4-x", "functions": [{"function": "f", "percent": percent}]}
        for percent in (80, 75, 90)
    ]
    assert tool.least(files) == {("k", "7.3"): {"f": 75}}
