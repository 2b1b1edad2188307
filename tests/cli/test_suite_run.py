# SPDX-License-Identifier: MIT
"""What becomes of a suite whose host ends badly: panics, hangs, dies at boot, or says nothing.

The hosts here are played: they say what an emulated host would, line by line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import HarnessError, UsageError
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.labels import HostLabel
from kvmharness.report.records import Record
from kvmharness.report.result import HostResult
from kvmharness.suite.run import Request, run_suite

LABEL = HostLabel("emulated-snp", "7.3.4")
TESTS = ("a", "b", "c", "d")


def said(kind: str, name: str) -> bytes:
    """Return a line of a played test process: plan, start, or a record's outcome."""
    nodeid = f"snp/test_x.py::test_{name}"
    if kind == "plan":
        value: dict[str, Any] = {
            "event": "plan",
            "tests": [[f"snp.{n}", f"snp/test_x.py::test_{n}"] for n in name],
        }
    elif kind == "start":
        value = {"event": "start", "id": f"snp.{name}", "nodeid": nodeid}
    elif kind == "end":
        value = {"event": "end", "exitstatus": int(name)}
    elif kind == "usage":
        value = {"event": "usage", "message": name}
    else:
        value = Record(f"snp.{name}", nodeid, kind, "emulated-snp", "7.3.4", True).as_dict()  # type: ignore[arg-type]
    return json.dumps(value).encode() + b"\n"


def passes(*names: str) -> bytes:
    return b"".join(said("start", name) + said("passed", name) for name in names)


class PlayedHost:
    """Plays one script for each boot: what the process writes, and how the run ends."""

    facts: Mapping[str, object] = {"kind": "emulated-snp"}

    def __init__(self, *boots: tuple[bytes, HostRun]) -> None:
        self._boots = list(boots)
        self.done: list[list[str]] = []
        self.argvs: list[Sequence[str]] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path] = (),
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> HostRun:
        self.argvs.append(argv)
        (done,) = (word.partition("=")[2] for word in argv if word.startswith("--kvmharness-done="))
        self.done.append(Path(done).read_text().splitlines())
        text, ended = self._boots.pop(0)
        assert on_output is not None
        # In pieces that end anywhere, as a serial port gives them.
        for at in range(0, len(text), 37):
            on_output("stderr", text[at : at + 37])
        return ended


def run(host: PlayedHost, **request: Any) -> HostResult:
    heard: list[Record] = []

    def listen(event: Record | dict[str, Any]) -> None:
        if isinstance(event, Record):
            heard.append(event)

    result = run_suite(host, LABEL, Request(**request), listen)
    assert heard == result.records
    assert not host._boots
    return result


def outcomes(result: HostResult) -> dict[str, str]:
    return {record.id.removeprefix("snp."): record.reason or "passed" for record in result.records}


FINISHED = HostRun(Verdict.FINISHED, 0, 1.0)
PANIC = HostRun(
    Verdict.PANIC, None, 5.0, "Kernel panic - not syncing: Fatal exception", b"", b"", "RIP: sev.c"
)


def test_a_run_to_the_end() -> None:
    host = PlayedHost((said("plan", "abcd") + passes(*TESTS) + said("end", "0"), FINISHED))
    result = run(host)
    assert outcomes(result) == dict.fromkeys(TESTS, "passed")
    assert (result.count("passed"), result.not_run) == (4, 0)


def test_a_panic_is_the_running_test_s_and_the_rest_runs_in_another_boot() -> None:
    host = PlayedHost(
        (said("plan", "abcd") + passes("a") + said("start", "b"), PANIC),
        (said("plan", "cd") + passes("c", "d") + said("end", "0"), FINISHED),
    )
    result = run(host)
    reason = "panic: Kernel panic - not syncing: Fatal exception"
    assert outcomes(result) == {"a": "passed", "b": reason, "c": "passed", "d": "passed"}
    blamed = result.records[1]
    assert (blamed.outcome, blamed.host, blamed.emulated) == ("failed", "emulated-snp", True)
    assert "RIP: sev.c" in blamed.report
    assert host.done[1] == ["snp/test_x.py::test_a", "snp/test_x.py::test_b"]
    assert len(result.records) == 4


def test_half_a_record_at_a_panic_is_no_record() -> None:
    cut = said("passed", "b")[:-9]
    host = PlayedHost(
        (said("plan", "ab") + passes("a") + said("start", "b") + cut, PANIC),
    )
    result = run(host)
    assert outcomes(result)["b"].startswith("panic")


def test_a_host_that_always_panics_is_given_up() -> None:
    boots = [(said("plan", "".join(left)) + said("start", left[0]), PANIC) for left in _suffixes()]
    host = PlayedHost(*boots)
    result = run(host)
    reasons = list(outcomes(result).values())
    assert len(reasons) == 20
    assert sum(reason.startswith("panic") for reason in reasons) == 11
    assert reasons[-1] == "not run: the tests crashed too often"
    assert result.count("passed") == 0


def _suffixes() -> list[list[str]]:
    names = [chr(ord("a") + n) for n in range(20)]
    return [names[n:] for n in range(11)]


def test_a_hang_takes_the_rest_of_the_time() -> None:
    timeout = HostRun(Verdict.TIMEOUT, None, 2.0, "still running 2 s after the command began")
    host = PlayedHost((said("plan", "abc") + passes("a") + said("start", "b"), timeout))
    result = run(host, timeout=0.0)
    assert outcomes(result) == {
        "a": "passed",
        "b": "still running when the run's 0 s were over",
        "c": "not run: the run's time was over",
    }


def test_a_host_that_does_not_boot_fails_once() -> None:
    ended = HostRun(Verdict.BOOT_FAILED, None, 120.0, "insmod kvm.ko: Invalid argument")
    result = run(PlayedHost((b"", ended)))
    assert [(record.id, record.outcome, record.reason) for record in result.records] == [
        ("emulated-snp", "error", "boot-failed: insmod kvm.ko: Invalid argument")
    ]


def test_noise_between_records_is_kept_for_the_report() -> None:
    killed = HostRun(Verdict.FINISHED, 139, 1.0)
    noise = b'Fatal Python error: Segmentation fault\n  File "/x/_pytest/runner.py", line 1\n'
    host = PlayedHost((said("plan", "a") + b"warning\n" + said("start", "a") + noise, killed))
    (record,) = run(host).records
    assert record.reason == "the test process was killed by SIGSEGV"
    assert "Segmentation fault" in record.report
    assert "_pytest/runner.py" not in record.report


def test_wrong_usage_inside_is_wrong_usage_outside() -> None:
    host = PlayedHost((said("usage", "no test is called 'x'") + said("end", "4"), FINISHED))
    with pytest.raises(UsageError, match="no test is called 'x'"):
        run(host)


def test_a_process_that_can_not_start_says_why() -> None:
    ended = HostRun(Verdict.FINISHED, 1, 0.1)
    host = PlayedHost((b"/usr/bin/python: No module named pytest\n", ended))
    with pytest.raises(HarnessError, match=r"could not be started: .*No module named pytest"):
        run(host)


def test_what_is_asked_for_reaches_pytest() -> None:
    host = PlayedHost((said("plan", "a") + passes("a") + said("end", "0"), FINISHED))
    run(
        host,
        select=("snp.a",),
        require=("snp",),
        destructive=True,
        deadline=7.5,
        pytest_args=("-k", "a or b"),
    )
    (argv,) = host.argvs
    for word in (
        "--kvmharness-select=snp.a",
        "--kvmharness-require=snp",
        "--kvmharness-destructive",
        "--kvmharness-deadline=7.5",
        "a or b",
    ):
        assert word in argv
