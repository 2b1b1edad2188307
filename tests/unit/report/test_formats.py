# SPDX-License-Identifier: MIT
"""Records and results as JSON lines, KTAP, JUnit, JSON, text: nothing lost, nothing relabelled."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from kvmharness.labels import HostLabel
from kvmharness.report import json_report, junit, ktap, live, result, terminal
from kvmharness.report.live import RunProgress
from kvmharness.report.records import Record, RecordWriter, parse
from kvmharness.report.result import AfterRun, HostResult

NATIVE = HostLabel("native", "6.18.1")
EMULATED = HostLabel("emulated-snp", "7.3.4")


def record(test_id: str, outcome: Any = "passed", reason: str = "", **values: Any) -> Record:
    label = values.pop("label", NATIVE)
    return Record(
        id=test_id,
        nodeid=f"kvm/test_x.py::{test_id}",
        outcome=outcome,
        host=label.kind,
        kernel=label.kernel,
        emulated=label.emulated,
        reason=reason,
        **values,
    )


@pytest.fixture
def results() -> list[HostResult]:
    native = [
        record("gmem.punch.all", seconds=0.25),
        record("gmem.punch.none", "skipped", "KVM_CAP_X: 0 on /dev/kvm\n# and so on"),
        record(
            "snp.source.null",
            "failed",
            "assert 'EIO' == 'EINVAL' # here",
            report="test_x.py:3: in test\n\x1b[1mE  <assert> & \x00\ufffe",
            ioctls=("fd 5  KVM_X = EIO",),
            kernel_log=("[    1.000000] WARNING: sev.c",),
        ),
        record("snp.type.bad", "skipped", "VM type snp: none"),
        record("attr.slow", "failed", "deadline: call took longer than 2 s", cause="timeout"),
        record("vcpu.known", "skipped", "expected failure: known", cause="expected"),
        record(
            "tdx.init.once",
            "error",
            "the firmware # answers otherwise",
            report="test_y.py:9: in test\nE  NotTheKernel",
        ),
        record("tdx.init.twice", "error", "not run: the time was over", cause="not-run"),
    ]
    emulated = [replace(record("snp.source.null", label=EMULATED), details={"digest": "ab"})]
    return [
        HostResult(NATIVE, {"kind": "native"}, native, seconds=1.5),
        HostResult(EMULATED, {"kind": "emulated-snp", "qemu": "10"}, emulated, seconds=9.0),
    ]


# ------------------------------------------------------------------ records


def test_records_and_events_come_back_as_written_each_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records"
    writer = RecordWriter(path)
    first = record("a.b", details={"n": 1}, ioctls=("x", "y"))
    writer.event("start", id="a.b")
    writer.record(first)
    lines = path.read_text().splitlines()
    assert [parse(line) for line in lines] == [{"event": "start", "id": "a.b"}, first]
    writer.close()


@pytest.mark.parametrize("line", ["", "noise", "[1]", '{"id": "a"}', '{"id": "a', "3"])
def test_a_damaged_line_is_no_record(line: str) -> None:
    assert parse(line) is None


def test_a_newer_record_with_more_fields_is_understood() -> None:
    value = record("a.b").as_dict() | {"colour": "red"}
    assert parse(json.dumps(value)) == record("a.b")


# ------------------------------------------------------------------ KTAP


def read_ktap(lines: list[str], depth: int = 0) -> list[dict[str, Any]]:
    """Parse KTAP strictly; returns the results of one level, each with those below it."""
    indent = "  " * depth
    assert lines.pop(0) == f"{indent}KTAP version 1"
    planned: int | None = None
    results: list[dict[str, Any]] = []
    below: list[dict[str, Any]] = []
    diagnostics: list[str] = []
    while lines and lines[0].startswith(indent):
        text = lines[0].removeprefix(indent)
        if text == "  KTAP version 1":
            below = read_ktap(lines, depth + 1)
            continue
        if match := re.fullmatch(r"1\.\.(\d+)", text):
            assert planned is None
            planned = int(match[1])
        elif text.startswith("# "):
            diagnostics.append(text[2:])
        else:
            match = re.fullmatch(r"(ok|not ok) (\d+) ([^#]+?)(?: # ([A-Z]+) ([^#]*))?", text)
            assert match, text
            assert int(match[2]) == len(results) + 1
            results.append(
                {
                    "ok": match[1] == "ok",
                    "name": match[3],
                    "directive": match[4],
                    "why": match[5],
                    "below": below,
                    "diagnostics": diagnostics,
                }
            )
            below, diagnostics = [], []
        lines.pop(0)
    assert planned == len(results)
    return results


def test_ktap_nests_hosts_topics_and_tests(results: list[HostResult]) -> None:
    lines = ktap.render(results).splitlines()
    hosts = read_ktap(lines)
    assert lines == []
    assert [(host["ok"], host["name"], host["directive"]) for host in hosts] == [
        (False, "native 6.18.1", None),
        (True, "emulated-snp 7.3.4", None),
    ]
    topics = hosts[0]["below"]
    assert [(topic["ok"], topic["name"], topic["directive"], topic["why"]) for topic in topics] == [
        (True, "gmem.punch", None, None),
        (False, "snp.source", None, None),
        (True, "snp.type", "SKIP", "VM type snp: none"),
        (False, "attr", None, None),
        (True, "vcpu", None, None),
        (False, "tdx.init", "ERROR", "2 of 2"),
    ]
    assert [test["name"] for test in topics[0]["below"]] == ["gmem.punch.all", "gmem.punch.none"]


def test_ktap_s_directives_tell_what_ok_and_not_ok_can_not(results: list[HostResult]) -> None:
    hosts = read_ktap(ktap.render(results).splitlines())
    tests = {test["name"]: test for topic in hosts[0]["below"] for test in topic["below"]}
    assert {n: (t["ok"], t["directive"], t["why"]) for n, t in tests.items()} == {
        "gmem.punch.all": (True, None, None),
        "gmem.punch.none": (True, "SKIP", "KVM_CAP_X: 0 on /dev/kvm and so on"),
        "snp.source.null": (False, None, None),
        "snp.type.bad": (True, "SKIP", "VM type snp: none"),
        "attr.slow": (False, "TIMEOUT", "deadline: call took longer than 2 s"),
        "vcpu.known": (True, "XFAIL", "expected failure: known"),
        "tdx.init.once": (False, "ERROR", "the firmware answers otherwise"),
        "tdx.init.twice": (False, "ERROR", "not run: the time was over"),
    }
    assert tests["tdx.init.once"]["diagnostics"][-1] == "E NotTheKernel"


def test_ktap_of_a_host_that_did_not_boot_is_an_error_with_its_reason() -> None:
    failed = Record.of_host(EMULATED, "error", reason="boot-failed: no kvm.ko", report="the end")
    (host,) = read_ktap(ktap.render([HostResult(EMULATED, {}, [failed])]).splitlines())
    assert (host["ok"], host["directive"], host["why"]) == (
        False,
        "ERROR",
        "boot-failed: no kvm.ko",
    )
    assert host["below"][0]["below"][0]["diagnostics"][-1] == "the end"


def test_ktap_shows_a_failure_s_reason_ioctls_and_log(results: list[HostResult]) -> None:
    hosts = read_ktap(ktap.render(results).splitlines())
    (failed,) = hosts[0]["below"][1]["below"]
    assert failed["diagnostics"][-3:] == [
        "assert 'EIO' == 'EINVAL' here",
        "fd 5 KVM_X = EIO",
        "[ 1.000000] WARNING: sev.c",
    ]


def test_ktap_says_what_is_emulated(results: list[HostResult]) -> None:
    text = ktap.render(results)
    assert "# emulated-snp host, Linux 7.3.4: emulated, not a hardware result" in text
    assert "# native host, Linux 6.18.1: not emulated" in text


# ------------------------------------------------------------------ JUnit and JSON


def test_junit_is_xml_with_counts_and_labels(results: list[HostResult]) -> None:
    root = ElementTree.fromstring(junit.render(results))
    native, emulated = root.findall("testsuite")
    counts = {"tests": "8", "failures": "2", "errors": "2", "skipped": "3"}
    assert {name: native.get(name) for name in counts} == counts
    assert {name: root.get(name) for name in counts} == counts | {"tests": "9"}
    assert native.get("time") == "1.500"
    labels = {p.get("name"): p.get("value") for p in emulated.iter("property")}
    assert labels["emulated"] == "true"
    assert labels["host"] == "emulated-snp"
    assert "not a hardware result" in (labels["label"] or "")
    failure, slow = native.iter("failure")
    assert (slow.get("type"), failure.get("type")) == ("timeout", None)
    assert failure.get("message") == "assert 'EIO' == 'EINVAL' # here"
    assert "<assert> & \ufffd\ufffd" in (failure.text or "")
    assert "WARNING: sev.c" in (failure.text or "")


def test_junit_s_errors_are_no_failures(results: list[HostResult]) -> None:
    root = ElementTree.fromstring(junit.render(results))
    ended = {
        case.get("name"): [(e.tag, e.get("type"), e.get("message")) for e in case]
        for case in root.iter("testcase")
    }
    assert ended["tdx.init.once"] == [("error", None, "the firmware # answers otherwise")]
    assert ended["tdx.init.twice"] == [("error", "not-run", "not run: the time was over")]
    assert ended["vcpu.known"] == [("skipped", "expected", "expected failure: known")]
    assert ended["gmem.punch.all"] == []
    (error, _) = root.iter("error")
    assert "NotTheKernel" in (error.text or "")


def test_junit_is_understood_by_a_parser_of_others(results: list[HostResult]) -> None:
    junitparser = pytest.importorskip("junitparser", reason="junitparser is not installed")
    parsed = junitparser.JUnitXml.fromstring(junit.render(results).encode())
    assert (parsed.tests, parsed.failures, parsed.errors, parsed.skipped) == (9, 2, 2, 3)
    native = next(iter(parsed))
    verdicts = {case.name: [type(entry).__name__ for entry in case.result] for case in native}
    assert verdicts["tdx.init.twice"] == ["Error"]
    assert verdicts["attr.slow"] == ["Failure"]
    # It counts anew what it has read: the counts written are those of what is there.
    native.update_statistics()
    assert (native.tests, native.failures, native.errors, native.skipped) == (8, 2, 2, 3)


def test_json_holds_everything(results: list[HostResult]) -> None:
    report = json.loads(json_report.render(results, 1))
    assert report["schema"] == "kvmharness.run/2"
    assert report["exit_status"] == 1
    assert report["summary"] == {
        "passed": 2,
        "failed": 2,
        "error": 1,
        "skipped": 3,
        "not_run": 1,
    }
    assert report["hosts"][0]["error"] == report["hosts"][0]["not_run"] == 1
    assert [host["emulated"] for host in report["hosts"]] == [False, True]
    assert report["hosts"][1]["facts"]["qemu"] == "10"
    written = [parse(json.dumps(entry)) for entry in report["records"]]
    assert written == [entry for result in results for entry in result.records]


def test_what_ran_after_the_suite_is_in_the_json_and_shown(results: list[HostResult]) -> None:
    long = "".join(f"line {number}\n" for number in range(100))
    results[1].after += [AfterRun("dmesg", 0, long), AfterRun("false [x]", 1, "")]
    report = json.loads(json_report.render(results, 1))
    assert [host["after"] for host in report["hosts"]] == [
        [],
        [
            {"command": "dmesg", "status": 0, "output": long},
            {"command": "false [x]", "status": 1, "output": ""},
        ],
    ]
    text = shown(results)
    assert "dmesg on emulated-snp ─" in text
    assert "... 60 lines (all of them with -v, or --json)\nline 60\n" in text
    assert "false [x] on emulated-snp, which ended with status 1 ─" in text
    assert "line 1\n" in shown(results, verbose=True)


# ------------------------------------------------------------------ terminal


def shown(results: list[HostResult], *, verbose: bool = False) -> str:
    stream = io.StringIO()
    terminal.show(Console(file=stream, width=120, highlight=False), results, verbose)
    return stream.getvalue()


def test_the_summary_counts_and_labels(results: list[HostResult]) -> None:
    text = shown(results)
    rows = [line.split() for line in text.splitlines()]
    assert ["native", "6.18.1", "1", "2", "1", "3", "1", "1.5", "s"] in rows
    assert ["emulated-snp", "(emulated)", "7.3.4", "1", "0", "0", "0", "0", "9.0", "s"] in rows
    assert "emulated-snp host, Linux 7.3.4: emulated, not a hardware result" in text


def test_a_native_run_says_nothing_of_emulation(results: list[HostResult]) -> None:
    assert "emulated" not in shown(results[:1])


def test_skips_are_grouped_by_reason(results: list[HostResult]) -> None:
    results[0].records += [record(f"snp.type.{n}", "skipped", "VM type snp: none") for n in "xyz"]
    lines = [" ".join(line.split()) for line in shown(results[:1]).splitlines()]
    assert lines.index("4 VM type snp: none") < lines.index("1 KVM_CAP_X: 0 on /dev/kvm")


def test_failures_show_their_reason_trace_and_log(results: list[HostResult]) -> None:
    text = shown(results)
    for part in ("snp.source.null on native 6.18.1", "'EIO' == 'EINVAL'", "fd 5  KVM_X = EIO"):
        assert part in text
    assert "[    1.000000] WARNING: sev.c" in text


def test_errors_are_told_from_failures_and_what_was_not_run_by_reason(
    results: list[HostResult],
) -> None:
    text = shown(results[:1])
    assert "tdx.init.once, an error: not the kernel's fault" in text
    assert "NotTheKernel" in text
    assert "snp.source.null, an error" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[lines.index("not run, by reason") + 1] == "1 not run: the time was over"


@pytest.mark.parametrize(
    ("outcomes", "status", "to_bisect"),
    [
        (["passed", "skipped"], 0, 0),
        (["passed", "failed"], 1, 1),
        (["passed", "error"], 1, 125),
        (["failed", "error"], 1, 1),
        (["skipped", "error"], 1, 125),
        (["skipped"], 4, 125),
        (["passed", "not run"], 1, 125),  # what was left out might have failed
        (["not run", "skipped"], 4, 125),
        ([], 4, 125),
    ],
)
def test_an_error_is_no_pass_and_to_a_bisection_no_failure(
    outcomes: list[str], status: int, to_bisect: int
) -> None:
    records = [
        record(f"a.{n}", "error", cause="not-run") if what == "not run" else record(f"a.{n}", what)
        for n, what in enumerate(outcomes)
    ]
    halves = [HostResult(NATIVE, {}, records[:1]), HostResult(EMULATED, {}, records[1:])]
    assert result.status(halves) == status
    assert result.bisect_status(halves) == to_bisect


def test_a_long_failure_is_cut_at_its_beginning_unless_verbose(results: list[HostResult]) -> None:
    long = "\n".join(f"line {n}" for n in range(100))
    results[0].records[2] = replace(results[0].records[2], report=long)
    text = shown(results)
    assert "... 60 lines (all of them with -v)" in text
    assert "line 59\n" not in text
    assert "line 99\n" in text
    assert "line 0\n" in shown(results, verbose=True)


def test_square_brackets_in_ids_and_reasons_are_text(results: list[HostResult]) -> None:
    results[0].records.append(record("a.b[red]", "failed", "saw [bold]x[/nope]"))
    text = shown(results)
    assert "a.b[red]" in text
    assert "saw [bold]x[/nope]" in text


def test_progress_in_a_log_is_plain_lines() -> None:
    stream = io.StringIO()
    with RunProgress(Console(file=stream, width=120), EMULATED, verbose=True) as progress:
        progress({"event": "plan", "tests": [["a.b", "x"], ["a.c", "y"]]})
        progress({"event": "start", "id": "a.b"})
        progress(record("a.b", seconds=0.012))
        progress(record("a.c", "failed", "why [x]"))
        assert (progress.done, progress.total) == (2, 2)
    assert stream.getvalue().splitlines() == [
        "2 tests on the emulated-snp host, Linux 7.3.4: emulated, not a hardware result",
        "passed  a.b  12 ms",
        "failed  a.c  why [x]",
    ]


def test_progress_in_a_log_counts_what_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(live, "_EVERY", 0.0)
    with RunProgress(Console(file=stream, width=120), NATIVE, verbose=False) as progress:
        progress({"event": "plan", "tests": [["a.b", "x"], ["a.c", "y"], ["a.d", "z"]]})
        progress(record("a.b", "error", "why"))
        progress(record("a.c", "failed", "why"))
        progress(record("a.d", "error", "why"))
    assert stream.getvalue().splitlines()[1:] == [
        "native: 0 of 3",
        "native: 1 of 3, 1 error",
        "native: 2 of 3, 1 failed, 1 error",
        "native: 3 of 3, 1 failed, 2 errors",
    ]


def test_progress_on_a_terminal_is_one_line() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, legacy_windows=False)
    with RunProgress(console, NATIVE, verbose=False) as progress:
        progress({"event": "plan", "tests": [["a.b[x]", "x"]]})
        progress({"event": "start", "id": "a.b[x]"})
        progress(record("a.b[x]", "failed", "why"))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "1/1" in text
    assert "1 failed" in text
    assert "\n" not in text.strip("\r\n")
