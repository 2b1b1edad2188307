# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from typing import Any

import pytest

from kvmharness.errors import HarnessError, UsageError
from kvmharness.labels import HostLabel
from kvmharness.report import kcidb
from kvmharness.report.records import Outcome, Record
from kvmharness.report.result import HostResult

kcidb_io = pytest.importorskip("kcidb_io", reason="kcidb-io is not installed")


def record(test_id: str, outcome: Outcome = "passed", **values: Any) -> Record:
    values = {"host": "emulated-snp", "kernel": "7.3.4-amd64", "emulated": True, **values}
    return Record(id=test_id, nodeid=f"snp/test_x.py::{test_id}", outcome=outcome, **values)


def result(*records: Record, kernel: str = "7.3.4-amd64") -> HostResult:
    facts = {"kind": "emulated-snp", "emulated": True, "kernel": kernel, "kernel_origin": "Debian"}
    return HostResult(HostLabel("emulated-snp", kernel), facts, list(records), 3.0)


def render(*results: HostResult, build: str | None = None) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(kcidb.render(results, build))
    return report


def test_it_is_valid_for_the_newest_schema_too() -> None:
    failed = record("snp.source.null", "failed", reason="broken", report="a\nb", seconds=1.5)
    report = render(result(record("snp.source.aligned"), failed))
    kcidb_io.schema.LATEST.validate(report)
    assert kcidb_io.schema.LATEST.count(report) == 4  # a checkout, a build, two tests


def test_a_test_says_its_path_status_time_and_that_it_was_emulated() -> None:
    (test,) = render(result(record("snp.source.null", seconds=0.25)))["tests"]
    assert test["path"] == "kvmharness.snp.source.null"
    assert (test["status"], test["duration"]) == ("PASS", 0.25)
    assert test["environment"]["misc"]["emulated"] is True
    assert "not a hardware result" in test["environment"]["comment"]


def test_a_skip_and_a_failure_carry_their_reasons() -> None:
    tests = render(
        result(
            record("a.b", "skipped", reason="no such VM type"),
            record("a.c", "failed", reason="EIO", report="assert 5", ioctls=("fd 3 X = EIO",)),
        )
    )["tests"]
    assert [test["status"] for test in tests] == ["SKIP", "FAIL"]
    assert tests[0]["misc"]["reason"] == "no such VM type"
    assert tests[1]["log_excerpt"] == "EIO\nassert 5\nfd 3 X = EIO"


def test_what_is_not_the_kernel_s_fault_is_an_error_and_what_never_ran_is_missing() -> None:
    tests = render(
        result(
            record("a.b", "error", reason="boot-failed: no kvm.ko"),
            record("a.c", "error", reason="not run: the time was over", cause="not-run"),
            record("a.d", "failed", reason="deadline", cause="timeout"),
        )
    )["tests"]
    assert [test["status"] for test in tests] == ["ERROR", "MISS", "FAIL"]
    assert tests[0]["log_excerpt"] == "boot-failed: no kvm.ko"


def test_a_long_report_is_cut_at_its_beginning_and_holds_no_zero_byte() -> None:
    (test,) = render(result(record("a.b", "failed", report="x" * 20_000 + "\0the end")))["tests"]
    assert len(test["log_excerpt"]) == 16384
    assert test["log_excerpt"].endswith("\ufffdthe end")


@pytest.mark.parametrize(
    ("test_id", "path"),
    [
        ("gmem.create[mmap+shared]", "kvmharness.gmem.create_mmap_shared"),
        ("gmem.bind[0-4]", "kvmharness.gmem.bind_0-4"),
        ("native", "kvmharness.native"),
        ("a..[]", "kvmharness.a._._"),
    ],
)
def test_any_id_makes_a_path_that_kcidb_takes(test_id: str, path: str) -> None:
    (test,) = render(result(record(test_id)))["tests"]
    assert test["path"] == path


def test_two_hosts_of_one_kernel_share_its_build_and_no_ids_collide() -> None:
    both = [result(record("a.b"), record("a.b")), result(record("a.b"))]
    report = render(*both, result(record("a.b"), kernel="6.12.107-amd64"))
    assert len(report["builds"]) == len(report["checkouts"]) == 2
    assert len({test["id"] for test in report["tests"]}) == 4
    builds = {build["id"]: build["checkout_id"] for build in report["builds"]}
    assert {test["build_id"] for test in report["tests"]} == set(builds)
    assert set(builds.values()) == {checkout["id"] for checkout in report["checkouts"]}
    assert {checkout["git_commit_name"] for checkout in report["checkouts"]} == {
        "v7.3.4",
        "v6.12.107",
    }


def test_the_build_of_a_lab_is_referred_to_and_not_made_up() -> None:
    report = render(result(record("a.b")), build="maestro:65ab")
    assert "builds" not in report
    assert "checkouts" not in report
    (test,) = report["tests"]
    assert (test["build_id"], test["origin"]) == ("maestro:65ab", "maestro")
    assert test["id"].startswith("maestro:")


@pytest.mark.parametrize("build", ["65ab", "Maestro:1", ":1", ""])
def test_what_is_no_build_id_is_refused_in_one_line(build: str) -> None:
    with pytest.raises(UsageError, match="ORIGIN:ID"):
        kcidb.check_build(build)


def test_what_kcidb_would_refuse_is_not_written() -> None:
    with pytest.raises(HarnessError, match="not valid at tests/0/comment"):
        render(result(record("a.b\0c")))
