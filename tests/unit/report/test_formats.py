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
from kvmharness.report import json_report, junit, ktap, terminal
from kvmharness.report.live import RunProgress
from kvmharness.report.records import Record, RecordReader, RecordWriter, parse
from kvmharness.report.result import HostResult

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
    ]
    emulated = [replace(record("snp.source.null", label=EMULATED), details={"digest": "ab"})]
    return [
        HostResult(NATIVE, {"kind": "native"}, native, planned=6, seconds=1.5),
        HostResult(EMULATED, {"kind": "emulated-snp", "qemu": "10"}, emulated, 1, 9.0),
    ]


# ------------------------------------------------------------------ records


def test_records_and_events_come_back_as_written(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "records")
    reader = RecordReader(tmp_path / "records")
    first = record("a.b", details={"n": 1}, ioctls=("x", "y"))
    writer.event("start", id="a.b")
    writer.record(first)
    assert reader.read() == [{"event": "start", "id": "a.b"}, first]
    assert reader.read() == []
    writer.record(record("a.c"))
    assert [entry.id for entry in reader.read() if isinstance(entry, Record)] == ["a.c"]
    writer.close()


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "records"
    line = json.dumps(record("a.b").as_dict()) + "\n"
    path.write_text(line[:20])
    reader = RecordReader(path)
    assert reader.read() == []
    path.write_text(line)
    assert reader.read() == [record("a.b")]


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
            match = re.fullmatch(r"(ok|not ok) (\d+) ([^#]+?)(?: # SKIP ([^#]*))?", text)
            assert match, text
            assert int(match[2]) == len(results) + 1
            results.append(
                {
                    "ok": match[1] == "ok",
                    "name": match[3],
                    "skip": match[4],
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
    assert [(host["ok"], host["name"]) for host in hosts] == [
        (False, "native 6.18.1"),
        (True, "emulated-snp 7.3.4"),
    ]
    topics = hosts[0]["below"]
    assert [(topic["ok"], topic["name"], topic["skip"]) for topic in topics] == [
        (True, "gmem.punch", None),
        (False, "snp.source", None),
        (True, "snp.type", "VM type snp: none"),
    ]
    assert [test["name"] for test in topics[0]["below"]] == ["gmem.punch.all", "gmem.punch.none"]
    assert topics[0]["below"][1]["skip"] == "KVM_CAP_X: 0 on /dev/kvm and so on"


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
    counts = {name: native.get(name) for name in ("tests", "failures", "skipped", "time")}
    assert counts == {"tests": "4", "failures": "1", "skipped": "2", "time": "1.500"}
    labels = {p.get("name"): p.get("value") for p in emulated.iter("property")}
    assert labels["emulated"] == "true"
    assert labels["host"] == "emulated-snp"
    assert "not a hardware result" in (labels["label"] or "")
    (failure,) = native.iter("failure")
    assert failure.get("message") == "assert 'EIO' == 'EINVAL' # here"
    assert "<assert> & \ufffd\ufffd" in (failure.text or "")
    assert "WARNING: sev.c" in (failure.text or "")


def test_json_holds_everything(results: list[HostResult]) -> None:
    report = json.loads(json_report.render(results, 1))
    assert report["schema"] == "kvmharness.run/1"
    assert report["exit_status"] == 1
    assert report["summary"] == {"passed": 2, "failed": 1, "skipped": 2, "not_run": 2}
    assert [host["emulated"] for host in report["hosts"]] == [False, True]
    assert report["hosts"][1]["facts"]["qemu"] == "10"
    written = [parse(json.dumps(entry)) for entry in report["records"]]
    assert written == [entry for result in results for entry in result.records]


# ------------------------------------------------------------------ terminal


def shown(results: list[HostResult], *, verbose: bool = False) -> str:
    stream = io.StringIO()
    terminal.show(Console(file=stream, width=120, highlight=False), results, verbose)
    return stream.getvalue()


def test_the_summary_counts_and_labels(results: list[HostResult]) -> None:
    text = shown(results)
    rows = [line.split() for line in text.splitlines()]
    assert ["native", "6.18.1", "1", "1", "2", "2", "1.5", "s"] in rows
    assert ["emulated-snp", "(emulated)", "7.3.4", "1", "0", "0", "0", "9.0", "s"] in rows
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
