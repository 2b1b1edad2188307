# SPDX-License-Identifier: MIT
"""What becomes of tests whose host ends badly: panics, hangs, dies at boot, or says nothing.

The hosts here are fakes: they say what a child on a host would, line by line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import HarnessError, UsageError
from kvmharness.hosts.host import Again, HostRun, Verdict
from kvmharness.hosts.supervise import SILENCE, Child, Job, supervise
from kvmharness.kernel_log.log import KernelLine
from kvmharness.labels import HostLabel
from kvmharness.report.records import Record
from kvmharness.report.result import AfterRun, HostResult

LABEL = HostLabel("emulated-snp", "7.3.4")
TESTS = ("a", "b", "c", "d")


def said(kind: str, name: str) -> bytes:
    """Return a line of a fake test process: plan, start, or a record's outcome."""
    nodeid = f"snp/test_x.py::test_{name}"
    if kind == "plan":
        value: dict[str, Any] = {
            "event": "plan",
            "tests": [[f"snp.{n}", f"snp/test_x.py::test_{n}"] for n in name],
        }
    elif kind == "start":
        value = {"event": "start", "id": f"snp.{name}", "nodeid": nodeid}
    elif kind == "slow":  # the start of a test with a deadline of its own
        value = {"event": "start", "id": f"snp.{name}", "nodeid": nodeid, "deadline": 400.0}
    elif kind == "end":
        value = {"event": "end", "exitstatus": int(name)}
    elif kind == "usage":
        value = {"event": "usage", "message": name}
    else:
        value = Record(f"snp.{name}", nodeid, kind, "emulated-snp", "7.3.4", True).as_dict()  # type: ignore[arg-type]
    return json.dumps(value).encode() + b"\n"


def passes(*names: str) -> bytes:
    return b"".join(said("start", name) + said("passed", name) for name in names)


class FakeHost:
    """Plays one script for each child: what it writes, and how the run ends."""

    facts: Mapping[str, object] = {"kind": "emulated-snp"}

    def __init__(self, *children: tuple[bytes, HostRun | BaseException]) -> None:
        self._children = list(children)
        self.done: list[list[str]] = []
        #: For how long each child might have been silent at its end.
        self.silence: list[float] = []
        self.after: list[list[str]] = []

    def run(self, argv: Sequence[str], **options: Any) -> HostRun:
        self.done.append(list(argv))
        text, ended = self._children.pop(0)
        # In pieces that end anywhere, as a serial port gives them.
        for at in range(0, len(text), 37):
            options["on_output"]("stderr", text[at : at + 37])
        self.silence.append(options["silence"]())
        self.after.append(list(options["after"]))
        if isinstance(ended, BaseException):
            raise ended
        for piece in (b"INTERNALERROR> Key", b"Error: x\n\nin pieces"):
            options["on_output"]("stdout", piece)
        return ended


def run(host: FakeHost, ends: type[BaseException] | None = None, **options: Any) -> HostResult:
    heard: list[Record] = []

    def listen(event: Record | dict[str, Any]) -> None:
        if isinstance(event, Record):
            heard.append(event)
        elif event["event"] == "again":
            assert heard[-len(event["dropped"]) :] == event["dropped"]
            del heard[-len(event["dropped"]) :]

    result = HostResult(LABEL, host.facts)
    job = Job(sorted, options.pop("timeout", 1800.0), **options)
    if ends is None:
        supervise(host, job, result, listen)
    else:
        with pytest.raises(ends):
            supervise(host, job, result, listen)
    assert heard == result.records
    assert not host._children
    return result


def outcomes(result: HostResult) -> dict[str, str]:
    return {record.id.removeprefix("snp."): record.reason or "passed" for record in result.records}


FINISHED = HostRun(Verdict.FINISHED, 0, 1.0)
PANIC = HostRun(
    Verdict.PANIC,
    None,
    5.0,
    "Kernel panic - not syncing: Fatal exception",
    console_tail="RIP: sev.c",
    again=Again("qemu-system-x86_64 \\\n  -initrd kept", Path("/kept/again")),
)


def test_a_run_to_the_end() -> None:
    host = FakeHost((said("plan", "abcd") + passes(*TESTS) + said("end", "0"), FINISHED))
    result = run(host)
    assert outcomes(result) == dict.fromkeys(TESTS, "passed")
    assert (result.count("passed"), result.not_run) == (4, 0)


def test_a_panic_is_the_running_test_s_and_the_rest_runs_in_another_boot() -> None:
    host = FakeHost(
        (said("plan", "abcd") + passes("a") + said("start", "b"), PANIC),
        (said("plan", "cd") + passes("c", "d") + said("end", "0"), FINISHED),
    )
    result = run(host)
    reason = "panic: Kernel panic - not syncing: Fatal exception"
    assert outcomes(result) == {"a": "passed", "b": reason, "c": "passed", "d": "passed"}
    blamed = result.records[1]
    assert (blamed.outcome, blamed.host, blamed.emulated) == ("failed", "emulated-snp", True)
    assert "RIP: sev.c" in blamed.report
    # At the end: the beginning of a long report is not shown.
    assert blamed.report.endswith(":\nqemu-system-x86_64 \\\n  -initrd kept")
    assert host.done[1] == ["snp/test_x.py::test_a", "snp/test_x.py::test_b"]
    assert len(result.records) == 4


def test_half_a_record_at_a_panic_is_no_record_but_is_in_the_report() -> None:
    cut = said("passed", "b")[:-9]
    host = FakeHost(
        (said("plan", "ab") + passes("a") + said("start", "b") + cut, PANIC),
    )
    result = run(host)
    assert outcomes(result)["b"].startswith("panic")
    assert f"\n{cut.decode()}\n" in result.records[1].report


def test_a_host_that_always_panics_is_given_up() -> None:
    boots = [(said("plan", "".join(left)) + said("start", left[0]), PANIC) for left in _suffixes()]
    host = FakeHost(*boots)
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
    host = FakeHost((said("plan", "abc") + passes("a") + said("start", "b"), timeout))
    result = run(host, timeout=0.0)
    assert outcomes(result) == {
        "a": "passed",
        "b": "still running when the run's 0 s were over",
        "c": "not run: the run's time was over",
    }


def test_a_host_that_does_not_boot_fails_once() -> None:
    ended = HostRun(Verdict.BOOT_FAILED, None, 120.0, "insmod kvm.ko: Invalid argument")
    result = run(FakeHost((b"", ended)))
    assert [(record.id, record.outcome, record.reason) for record in result.records] == [
        ("emulated-snp", "error", "boot-failed: insmod kvm.ko: Invalid argument")
    ]


def test_noise_between_records_is_kept_for_the_report() -> None:
    killed = HostRun(Verdict.FINISHED, 139, 1.0)
    noise = b'Fatal Python error: Segmentation fault\n  File "/x/_pytest/runner.py", line 1\n'
    host = FakeHost((said("plan", "a") + b"warning\n" + said("start", "a") + noise, killed))
    (record,) = run(host).records
    assert record.reason == "the test process was killed by SIGSEGV"
    assert "Segmentation fault" in record.report
    assert "_pytest/runner.py" not in record.report


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.PANIC, "failed"),
        (Verdict.GUEST_DIED, "failed"),
        (Verdict.QEMU_CRASHED, "error"),
        (Verdict.TIMEOUT, "error"),
        (Verdict.SILENT, "failed"),
    ],
)
def test_only_the_kernel_s_doing_is_a_failure(verdict: Verdict, outcome: str) -> None:
    ended = HostRun(verdict, None, 2.0, "why")
    (record,) = run(FakeHost((said("plan", "a") + said("start", "a"), ended))).records
    assert (record.id, record.outcome) == ("snp.a", outcome)
    assert 0 < record.seconds < 60
    assert record.cause == ("timeout" if verdict in (Verdict.TIMEOUT, Verdict.SILENT) else "")


def test_a_silent_test_is_a_failure_and_the_rest_runs() -> None:
    silent = HostRun(Verdict.SILENT, None, 300.0, "nothing was heard of the command for 300 s")
    host = FakeHost(
        (said("plan", "abc") + passes("a") + said("start", "b"), silent),
        (said("plan", "c") + passes("c") + said("end", "0"), FINISHED),
    )
    assert outcomes(run(host)) == {
        "a": "passed",
        "b": "silent: nothing was heard of the command for 300 s",
        "c": "passed",
    }
    assert host.silence == [SILENCE, SILENCE]


def test_a_test_with_a_deadline_of_its_own_may_be_silent_for_as_long_as_that_takes() -> None:
    host = FakeHost((said("plan", "a") + said("slow", "a"), PANIC))
    run(host, silence=100.0)
    assert host.silence == [860.0]
    host = FakeHost((said("plan", "a") + said("slow", "a") + said("passed", "a"), PANIC))
    run(host, silence=100.0)
    assert host.silence == [100.0]


WRONG = HostRun(Verdict.WRONG_TIME, None, 9.0, "its time is wrong: 60.0 s of it in 9.0 s")


def test_what_ran_in_a_wrong_time_runs_again_once() -> None:
    failed = said("start", "b") + said("failed", "b")
    host = FakeHost(
        (said("plan", "ab") + passes("a") + failed + said("end", "1"), WRONG),
        (said("plan", "ab") + passes("a", "b") + said("end", "0"), FINISHED),
    )
    result = run(host)
    assert [(r.id, r.outcome) for r in result.records] == [("snp.a", "passed"), ("snp.b", "passed")]
    assert host.done == [[], []]
    assert result.facts["refused_boots"] == [WRONG.detail]


def test_a_time_that_is_wrong_again_is_an_error() -> None:
    text = said("plan", "ab") + passes("a") + said("end", "0")
    result = run(FakeHost((text, WRONG), (text, WRONG)))
    assert outcomes(result) == {
        "a": "passed",
        "emulated-snp": f"wrong-time: {WRONG.detail}",
        "b": f"not run: the host was refused twice: {WRONG.detail}",
    }
    assert result.count("error") == 1


def test_what_a_run_tells_of_its_host_is_a_fact() -> None:
    told = HostRun(
        Verdict.FINISHED, 0, 1.0, clock_rate=1.00024, refused=["its time is wrong"], restored=True
    )
    result = run(FakeHost((said("plan", "a") + passes("a") + said("end", "0"), told)))
    assert result.facts == {
        "kind": "emulated-snp",
        "clock_rate": 1.0002,
        "restored": True,
        "refused_boots": ["its time is wrong"],
    }


def test_what_runs_after_each_boot_is_kept() -> None:
    first, second = AfterRun("dmesg", 0, "oops"), AfterRun("dmesg", 1, "")
    host = FakeHost(
        (
            said("plan", "ab") + said("start", "a"),
            HostRun(Verdict.FINISHED, 137, 1.0, after=[first]),
        ),
        (said("plan", "b") + passes("b") + said("end", "0"), replace(FINISHED, after=[second])),
    )
    result = run(host, after=["dmesg"])
    assert result.after == [first, second]
    assert host.after == [["dmesg"], ["dmesg"]]


def test_a_hang_that_the_watchdog_ended_is_a_failure_of_time() -> None:
    noise = b"Timeout (0:02:00)!\nThread 0x1 (most recent call first):\n"
    text = said("plan", "a") + said("start", "a") + noise
    (record,) = run(FakeHost((text, HostRun(Verdict.FINISHED, 1, 1.0)))).records
    assert (record.outcome, record.cause) == ("failed", "timeout")
    assert record.reason.startswith("hung: ")
    assert "most recent call first" in record.report


def test_a_death_between_two_tests_is_an_error_of_the_host_s_and_the_rest_runs() -> None:
    host = FakeHost(
        (said("plan", "ab") + passes("a"), PANIC),
        (said("plan", "b") + passes("b") + said("end", "0"), FINISHED),
    )
    result = run(host)
    host_s = result.records[1]
    assert (host_s.is_of_host, host_s.outcome) == (True, "error")
    assert outcomes(result)["b"] == "passed"


def test_a_session_that_fails_by_itself_is_an_error_and_the_rest_runs() -> None:
    host = FakeHost(
        (said("plan", "ab") + said("start", "a") + said("end", "3"), FINISHED),
        (said("plan", "b") + passes("b") + said("end", "0"), FINISHED),
    )
    result = run(host)
    assert [(r.id, r.outcome) for r in result.records] == [("snp.a", "error"), ("snp.b", "passed")]
    assert result.records[0].reason == "pytest failed by itself: KeyError: x"
    assert result.records[0].report.splitlines()[1:] == [
        "INTERNALERROR> KeyError: x",
        "in pieces",
    ]


def test_what_the_next_child_does_not_know_of_any_more_did_not_run() -> None:
    host = FakeHost(
        (said("plan", "abc") + said("start", "a"), PANIC),
        (said("plan", "b") + passes("b") + said("end", "0"), FINISHED),
    )
    assert outcomes(run(host))["c"] == "not run: the session ended before it"


def test_a_session_that_ends_too_soon_says_what_it_left_out() -> None:
    text = said("plan", "abc") + passes("a") + said("start", "b") + said("end", "2")
    result = run(FakeHost((text, FINISHED)))
    assert outcomes(result) == {
        "a": "passed",
        "b": "the session ended in this test",
        "c": "not run: the session ended before it",
    }
    assert [record.ran for record in result.records] == [True, True, False]
    assert [record.outcome for record in result.records] == ["passed", "error", "error"]


def test_a_crash_stops_what_a_failure_stops() -> None:
    host = FakeHost((said("plan", "ab") + said("start", "a"), PANIC))
    result = run(host, stops_early=True)
    assert outcomes(result)["b"] == "not run: the run was told to stop at a failure"


def test_what_each_child_finds_anew_is_recorded_once() -> None:
    broken = said("error", "x")
    host = FakeHost(
        (broken + said("plan", "ab") + said("start", "a"), PANIC),
        (broken + said("plan", "b") + passes("b") + said("end", "1"), FINISHED),
    )
    assert [record.id for record in run(host).records] == ["snp.x", "snp.a", "snp.b"]


@pytest.mark.parametrize(
    ("error", "how"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(143), "ended from outside")],
)
def test_an_interruption_leaves_a_record_of_each_test(error: BaseException, how: str) -> None:
    host = FakeHost((said("plan", "abc") + passes("a") + said("start", "b"), error))
    result = run(host, ends=type(error))
    assert outcomes(result) == {
        "a": "passed",
        "b": f"the run was {how} in this test",
        "c": f"not run: the run was {how}",
    }
    assert (result.count("error"), result.not_run) == (1, 1)
    assert [record.seconds > 0 for record in result.records] == [False, True, False]
    assert result.seconds > 0


def test_an_interruption_before_there_is_a_plan_is_told_too() -> None:
    result = run(FakeHost((b"", KeyboardInterrupt())), ends=KeyboardInterrupt)
    (record,) = result.records
    assert (record.is_of_host, record.ran) == (True, False)
    assert "before any test began" in record.reason


def test_a_host_that_can_not_run_is_an_error_and_nothing_is_lost() -> None:
    host = FakeHost(
        (said("plan", "abc") + passes("a") + said("start", "b"), HarnessError("no room for QEMU"))
    )
    result = run(host)
    assert outcomes(result) == {
        "a": "passed",
        "b": "the host failed in this test: no room for QEMU",
        "emulated-snp": "no room for QEMU",
        "c": "not run: the host failed",
    }
    assert {record.outcome for record in result.records} == {"passed", "error"}


def test_a_job_that_can_not_be_done_is_refused() -> None:
    def check(child: Child, run: HostRun) -> None:
        if child.usage:
            raise UsageError(child.usage)

    host = FakeHost((said("usage", "no test is called 'x'") + said("end", "4"), FINISHED))
    result = run(host, ends=UsageError, check=check)
    assert result.records == []


def test_a_child_that_can_not_start_is_an_error_that_says_why() -> None:
    ended = HostRun(Verdict.FINISHED, 1, 0.1)
    result = run(FakeHost((b"/usr/bin/python: No module named pytest\n", ended)))
    (record,) = result.records
    assert (record.is_of_host, record.outcome) == (True, "error")
    assert "could not be started: /usr/bin/python: No module named pytest" in record.reason


def logged(*texts: str) -> list[KernelLine]:
    return [KernelLine(None, 1.0, text, None) for text in texts]


def test_the_record_of_a_crash_holds_what_the_kernel_said_since_the_test_began() -> None:
    oops = HostRun(
        Verdict.FINISHED,
        137,
        1.0,
        kernel_log=logged(
            "kvmharness: begin snp.a",
            "BUG: of another test",
            "kvmharness: begin snp.b",
            "Oops: general protection fault, probably for x: 0000 [#1]",
            "Call Trace:",
        ),
    )
    host = FakeHost(
        (said("plan", "ab") + passes("a") + said("start", "b"), oops),
    )
    result = run(host)
    reason = (
        "the test process was killed by SIGKILL; the kernel logged: Oops general protection fault"
    )
    assert result.records[1].reason == reason
    assert [line.split("] ")[1] for line in result.records[1].kernel_log] == [
        "Oops: general protection fault, probably for x: 0000 [#1]",
        "Call Trace:",
    ]


def test_of_a_long_log_the_beginning_and_the_end_are_kept() -> None:
    storm = HostRun(Verdict.FINISHED, 137, 1.0, kernel_log=logged(*map(str, range(1000))))
    host = FakeHost((said("plan", "a") + said("start", "a"), storm))
    lines = [line.split("] ")[-1] for line in run(host).records[0].kernel_log]
    assert (lines[0], lines[200], lines[-1]) == ("0", "... 700 lines left out ...", "999")


def test_a_crash_whose_log_is_not_known_is_a_crash_all_the_same() -> None:
    host = FakeHost(
        (said("plan", "a") + said("start", "a"), HostRun(Verdict.FINISHED, 137, 1.0)),
    )
    (record,) = run(host).records
    assert record.reason == "the test process was killed by SIGKILL"
    assert record.kernel_log == ()
