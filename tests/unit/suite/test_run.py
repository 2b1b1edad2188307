# SPDX-License-Identifier: MIT
"""How the suite is asked for: pytest's command line, what it refuses, the trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmharness import resources
from kvmharness.errors import UsageError
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.labels import HostLabel
from kvmharness.report.result import HostResult
from kvmharness.suite.run import Request, run_suite

NODEID = "snp/test_x.py::test_a"


class FakeHost:
    """A host whose children say `lines` on stderr and end with `status`."""

    facts: Mapping[str, object] = {"kind": "emulated-snp"}

    def __init__(self, lines: Sequence[str | dict[str, Any]], status: int = 0) -> None:
        self._lines = lines
        self._status = status
        self.argvs: list[Sequence[str]] = []
        self.done: list[list[str]] = []

    def run(self, argv: Sequence[str], **options: Any) -> HostRun:
        self.argvs.append(argv)
        (done,) = (word.partition("=")[2] for word in argv if word.startswith("--kvmharness-done="))
        self.done.append(Path(done).read_text().splitlines())
        if trace := options["env"].get("KVMHARNESS_TRACE"):
            assert Path(trace).parent in options["writable"]
            with open(trace, "a") as file:
                file.write(f"child {len(self.argvs)}\n")
        for line in self._lines:
            text = line if isinstance(line, str) else json.dumps(line)
            options["on_output"]("stderr", text.encode() + b"\n")
        return HostRun(Verdict.FINISHED, self._status, 1.0)


def run(host: FakeHost, **request: Any) -> HostResult:
    result = HostResult(HostLabel("emulated-snp", "7.3.4"), host.facts)
    run_suite(host, Request(**request), result, lambda event: None)
    return result


PLAN: list[str | dict[str, Any]] = [
    {"event": "plan", "tests": [["snp.a", NODEID], ["snp.b", "b"]]},
    {"event": "start", "id": "snp.a", "nodeid": NODEID},
]
ENDED = {"event": "end", "exitstatus": 0}


def test_what_is_asked_for_reaches_pytest() -> None:
    host = FakeHost([*PLAN, ENDED])
    run(
        host,
        select=("snp.a",),
        require=("snp",),
        allow_log=("^usb ",),
        destructive=True,
        deadline=7.5,
        pytest_args=("-k", "a or b"),
    )
    (argv,) = host.argvs
    for word in (
        "--kvmharness-select=snp.a",
        "--kvmharness-require=snp",
        "--kvmharness-allow-log=^usb ",
        "--kvmharness-destructive",
        "--kvmharness-deadline=7.5",
        "a or b",
    ):
        assert word in argv


def test_the_next_child_is_told_what_is_done_and_the_traces_are_one(tmp_path: Path) -> None:
    host = FakeHost(PLAN, status=139)
    trace = tmp_path / "trace"
    result = run(host, environment={"KVMHARNESS_TRACE": str(trace)})
    assert host.done[0] == []
    assert NODEID in host.done[1]
    assert [record.outcome for record in result.records][:1] == ["failed"]
    assert trace.read_text().splitlines()[:2] == ["child 1", "child 2"]


def test_wrong_usage_inside_is_wrong_usage_outside() -> None:
    with pytest.raises(UsageError, match="no test is called 'x'"):
        run(FakeHost([{"event": "usage", "message": "no test is called 'x'"}, ENDED], status=4))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pytest: error: unrecognized arguments: --nope", "unrecognized arguments: --nope"),
        ("ERROR: file or directory not found: x", "file or directory not found: x"),
        ("", "pytest refused its arguments"),
    ],
)
def test_what_pytest_refuses_is_wrong_usage(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(FakeHost([line], status=4))


@pytest.mark.parametrize("word", ["-x", "--exitfirst", "--maxfail=2"])
def test_a_run_that_stops_at_a_failure_stops_at_a_crash(word: str) -> None:
    host = FakeHost(PLAN, status=139)
    result = run(host, pytest_args=(word,))
    assert len(host.argvs) == 1
    assert [record.ran for record in result.records] == [True, False]


@pytest.mark.parametrize(
    ("select", "collected"),
    [
        (("snp",), {"snp"}),
        (("snp.range", "kvm/test_scenarios.py"), {"snp", "kvm/test_scenarios.py"}),
        (("snp", "gmem.punch"), {"kvm", "snp", "stress", "tdx"}),
        (("kvm/test_no_such.py",), {"kvm", "snp", "stress", "tdx"}),
    ],
)
def test_what_is_collected_is_no_more_than_what_is_selected(
    select: tuple[str, ...], collected: set[str]
) -> None:
    host = FakeHost([*PLAN, ENDED])
    run(host, select=select)
    suite = resources.suite_dir()
    assert {
        str(Path(word).relative_to(suite)) for word in host.argvs[0] if word.startswith(f"{suite}/")
    } == collected
