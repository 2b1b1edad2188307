# SPDX-License-Identifier: MIT
"""docs/formats.md names every member that the JSON reports have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from kvmharness import resources
from kvmharness.contract import files, shown
from kvmharness.labels import HostLabel
from kvmharness.matrix import model
from kvmharness.report import json_report
from kvmharness.report.records import Record
from kvmharness.report.result import HostResult

from ..matrix.samples import matrix


@pytest.fixture(scope="module")
def documented() -> set[str]:
    top = resources.checkout_dir()
    assert top is not None
    text = (top / "docs" / "formats.md").read_text(encoding="utf-8")
    return set(re.findall(r"`([a-z_./0-9]+)`", text))


def members(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each member; names that are data (kernels, facts) become ``*``."""
    if isinstance(value, list):
        for each in value[:3]:
            yield from members(each, path)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if path[-1:] in (("facts",), ("rmp",), ("details",)):
                continue
            data = path[-1:] in (("outcomes",), ("hosts",)) and "-amd64" in name
            here = (*path, "*" if data else name)
            yield here
            yield from members(inner, here)


def test_a_matrix(documented: set[str]) -> None:
    found = {path[-1] for path in members(json.loads(model.render(matrix())))} - {"*", "qemu"}
    assert found - documented == set()
    assert model.SCHEMA in documented


def test_the_contract(documented: set[str]) -> None:
    ids = ["snp.state.second_finish_vcpu"]
    entries = shown.promised(files.load(), ids, ids, None)
    found = {path[-1] for path in members(json.loads(shown.render(entries, None)))}
    assert found - documented == set()
    assert shown.SCHEMA in documented


def test_a_run(documented: set[str]) -> None:
    record = Record("a.b", "n", "passed", "native", "7.3", False)
    results = [HostResult(HostLabel("native", "7.3"), {}, [record], 1.0)]
    found = {path[-1] for path in members(json.loads(json_report.render(results, 0)))}
    assert found - documented == set()
    assert {field.name for field in fields(Record)} <= documented
    assert json_report.SCHEMA in documented
