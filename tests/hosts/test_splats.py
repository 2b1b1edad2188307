# SPDX-License-Identifier: MIT
"""Bugs that a kernel really finds in itself during tests, and what becomes of those tests.

A module of ours (splats/splats.c) plants them on an emulated host; splats/planted.py are the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.kernels import modulebuild

#: Seconds for four boots on a busy machine: an oops, a hang and a panic each end one.
_RUN = 600.0
_HERE = Path(__file__).parent / "splats"

pytestmark = pytest.mark.deadline(_RUN + 200)

#: What the kernel has to have said against itself in the end, by the test's name.
SAID = {
    "in_this_process[warn]": ["WARNING splat_warn"],
    "in_this_process[error]": ["level 3: splats: a message of level 3"],
    "in_this_process[refcount]": ["refcount underflow", "WARNING refcount_warn_saturate"],
    "in_this_process[ubsan]": ["UBSAN shift-out-of-bounds"],
    "in_this_process[atomic]": ["BUG scheduling while atomic"],
    "in_a_child[bug]": ["kernel BUG", "Oops invalid opcode"],
    "in_a_child[null]": ["BUG kernel NULL pointer dereference", "Oops"],
    "in_a_child[gpf]": ["Oops general protection fault"],
    "in_a_child[list]": ["list corruption list_del", "kernel BUG lib/list_debug.c"],
    "written_by_root": ["soft lockup"],
    "that_an_oops_kills": ["kernel BUG", "Oops invalid opcode"],
    "that_hangs": ["hung task", "panic hung_task"],
    "that_a_panic_ends": ["panic sysrq triggered crash"],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The records of the planted tests by name, after a run that a person would make."""
    try:
        host = EmulatedHost.prepare("emulated-snp")
        module = modulebuild.build(modulebuild.ModuleSource("splats", _HERE), host.kernel)
    except MissingCapability as missing:
        pytest.skip(str(missing))
    directory = tmp_path_factory.mktemp("splats")
    planted = directory / "test_planted.py"
    planted.write_text((_HERE / "planted.py").read_text(encoding="utf-8"), encoding="utf-8")
    report, junit = directory / "report.json", directory / "report.xml"
    argv = [sys.executable, "-m", "kvmharness", "run", "planted", "--host", "emulated-snp"]
    argv += ["--json", str(report), "--junit", str(junit), "--", str(planted)]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=_RUN,
        check=False,
        env={**os.environ, "KVMHARNESS_SPLATS": str(module)},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    written = json.loads(report.read_text())["records"]
    found = {record["id"].removeprefix("planted."): record for record in written}
    failed = {case.name for suite in JUnitXml.fromfile(str(junit)) for case in suite if case.result}
    assert {record["id"] for record in found.values() if record["outcome"] != "passed"} <= failed
    return found


@pytest.mark.parametrize("name", ["nothing", "expected"])
def test_what_says_nothing_unexpected_passes(records: dict[str, dict[str, Any]], name: str) -> None:
    assert records[name]["outcome"] == "passed", records[name]["reason"]


@pytest.mark.parametrize("name", SAID)
def test_what_the_kernel_says_against_itself_fails_the_test(
    records: dict[str, dict[str, Any]], name: str
) -> None:
    record = records[name]
    assert record["outcome"] == "failed", record
    for said in SAID[name]:
        assert said in record["reason"]
    assert record["kernel_log"], "the record holds no kernel log"


def test_the_log_of_a_test_that_was_killed_begins_where_it_began(
    records: dict[str, dict[str, Any]],
) -> None:
    killed = records["that_an_oops_kills"]
    assert killed["reason"].startswith("the test process was killed by SIG")
    assert "soft lockup" not in "\n".join(killed["kernel_log"])  # that was the test before
    assert "Call Trace:" in "\n".join(killed["kernel_log"])
    assert "panic" in records["that_a_panic_ends"]["reason"]


def test_what_hangs_says_where(records: dict[str, dict[str, Any]]) -> None:
    assert "msleep" in "\n".join(records["that_hangs"]["kernel_log"])
