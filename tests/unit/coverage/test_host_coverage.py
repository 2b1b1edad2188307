# SPDX-License-Identifier: MIT
"""What is told of a host's coverage, and the floors that it is held to."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from kvmharness.coverage import floors, lcov
from kvmharness.coverage.host_coverage import HostCoverage
from kvmharness.coverage.lines import Line
from kvmharness.coverage.measure import FunctionCoverage, Gap
from kvmharness.labels import HostLabel

SOURCE = "virt/kvm/guest_memfd.c"
GROUP = ("guest_memfd", "kvm", SOURCE)
MISSED = tuple(Line(SOURCE, number) for number in (12, 13, 20))
POPULATE = FunctionCoverage(
    "kvm_gmem_populate",
    *GROUP,
    8,
    7,
    (Gap(0x30, 0x44, ("fput",), MISSED),),
    {Line(SOURCE, 11): True, **dict.fromkeys(MISSED, False)},
)
MMAP = FunctionCoverage("kvm_gmem_mmap", *GROUP, 3, 3)
LABEL = HostLabel("emulated-snp", "7.3.4-amd64")
HOST = HostCoverage(LABEL, 1, [POPULATE, MMAP], {"kvm_gmem_populate": 87, "kvm_gmem_mmap": 100})


def _shown(host: HostCoverage) -> str:
    console = Console(file=StringIO(), width=120, color_system=None)
    host.show(console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_function_at_its_floor_has_not_fallen() -> None:
    assert HOST.fallen == []


def test_less_than_the_floor_has_fallen() -> None:
    less = replace(HOST, functions=[replace(POPULATE, reached=6), MMAP])
    assert [str(each) for each in less.fallen] == [
        "kvm_gmem_populate: 75 % reached, and its floor is 87 %"
    ]
    assert "its floor is 87 %" in _shown(less)


def test_a_function_that_is_gone_has_fallen() -> None:
    (gone,) = replace(HOST, functions=[POPULATE]).fallen
    assert (gone.function, gone.percent) == ("kvm_gmem_mmap", None)
    assert "not a function of this kernel" in str(gone)


def test_the_table_has_the_share_the_floor_and_what_was_not_reached() -> None:
    lines = _shown(HOST).splitlines()
    (populate,) = (line for line in lines if "kvm_gmem_populate" in line)
    shown = ["kvm_gmem_populate", "87", "%", "7/8", "87", "%", "12-13,", "20", "fput"]
    assert populate.split() == shown
    assert "emulated, not a hardware result" in lines[0]


def test_json_has_where_the_code_is_that_was_not_reached() -> None:
    told = json.loads(HOST.as_json())
    assert (told["schema"], told["emulated"], told["boots"]) == (
        "kvmharness.kernel-coverage/1",
        True,
        1,
    )
    assert told["functions"][0] == {
        "function": "kvm_gmem_populate",
        "group": "guest_memfd",
        "module": "kvm",
        "source": SOURCE,
        "blocks": 8,
        "reached": 7,
        "percent": 87,
        "floor": 87,
        "not_reached": [
            {
                "begin": 0x30,
                "end": 0x44,
                "calls": ["fput"],
                "lines": [f"{SOURCE}:12-13", f"{SOURCE}:20"],
            }
        ],
    }


def test_floors_are_of_a_kind_of_host_and_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = {"floor": 50, "was": 60, "because": "a branch went"}
    held = {"emulated-snp": {"7.3": {"kvm_gmem_mmap": 100, "kvm_gmem_create": lowered}}}
    monkeypatch.setattr(floors, "_read", lambda: held)
    assert floors.floors("emulated-snp", "7.3") == {"kvm_gmem_mmap": 100, "kvm_gmem_create": 50}
    assert floors.floors("emulated-snp", "6.12") == {}
    assert floors.floors("emulated-tdx", "7.3") == {}


def test_lcov_has_each_line_once_reached_or_not() -> None:
    other = FunctionCoverage(
        "other", *GROUP, 2, 0, (), {Line(SOURCE, 11): False, Line("a.h", 3): False}
    )
    assert lcov.render([POPULATE, other]).splitlines() == [
        *("TN:", "SF:a.h", "FNF:0", "FNH:0", "DA:3,0", "LF:1", "LH:0", "end_of_record"),
        *("TN:", f"SF:{SOURCE}", "FN:11,kvm_gmem_populate", "FN:11,other"),
        *("FNDA:1,kvm_gmem_populate", "FNDA:0,other", "FNF:2", "FNH:1"),
        *("DA:11,1", "DA:12,0", "DA:13,0", "DA:20,0", "LF:4", "LH:1", "end_of_record"),
    ]


def test_without_lines_there_is_no_tracefile() -> None:
    assert lcov.render([MMAP]) == ""
