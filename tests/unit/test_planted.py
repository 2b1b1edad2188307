# SPDX-License-Identifier: MIT
"""The faults of ci/planted: the list and the patch have the same, and a verdict says what came."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kvmharness import host_kinds

CI = Path(__file__).resolve().parents[2] / "ci"


@pytest.fixture(scope="module")
def planted() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("planted", CI / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["planted"]


def test_the_list_and_the_patch_have_the_same_faults(planted: ModuleType) -> None:
    patch = (CI / "faults" / "faults.patch").read_text(encoding="utf-8")
    added = [line for line in patch.splitlines() if line.startswith("+")]
    in_patch = {int(number) for line in added for number in re.findall(r"PLANTED\((\d+)\)", line)}
    numbers = [fault.number for fault in planted.faults()]
    assert len(numbers) == len(set(numbers)) >= 60
    assert set(numbers) == in_patch


def test_each_fault_is_told_apart_and_tried_somewhere(planted: ModuleType) -> None:
    faults = planted.faults()
    assert len({fault.name for fault in faults}) == len(faults)
    assert {fault.host for fault in faults} == set(host_kinds.EMULATED)
    assert all(fault.find for fault in faults)


def test_faults_are_chosen_by_name_number_and_kind(planted: ModuleType) -> None:
    assert [fault.name for fault in planted.chosen(["3"])] == ["populate_src_no_put"]
    assert [fault.number for fault in planted.chosen(["populate_src_no_put"])] == [3]
    assert {fault.kind for fault in planted.chosen(["lock"])} == {"lock"}
    assert planted.chosen([]) == planted.faults()
    with pytest.raises(KeyError, match="there is no fault 'nothing'"):
        planted.chosen(["nothing"])


def test_what_failed_is_caught_and_what_could_not_be_tried_is_neither(planted: ModuleType) -> None:
    fault = planted.faults()[0]
    found = planted.Found
    assert found(fault, 3, [("snp.range.punched", "EIO")]).verdict == "caught"
    assert found(fault, 3, []).verdict == "survived"
    assert found(fault, 0, [], "the host did not boot").verdict == "the host did not boot"
