# SPDX-License-Identifier: MIT
"""Has tests run on a host, in as many processes as it takes, and gets a record of each.

The tests run in a process of their own, a child, so that a crash, a hang or a panic is a verdict on
the test that was running and not the end of the report. The child says what it does line by line
(report/records.py): the plan, what begins, what came of it, the end. When it or its host dies, the
test that ran gets its record here, and another child does what is left.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmharness.errors import HarnessError, UsageError
from kvmharness.hosts.host import Host, HostRun, Verdict
from kvmharness.kernel_log.classify import findings, texts
from kvmharness.kernel_log.log import KernelLine
from kvmharness.report.records import Record, parse
from kvmharness.report.result import HostResult

#: How often a crash is followed by another child for the remaining tests.
CRASHES = 10
#: Lines of a child's output that are kept for the report of a crash.
_TAIL_LINES = 60
#: Seconds for which a child may write nothing. What a test and its watchdog end themselves, with
#: the usual deadline of 120 s for each phase, takes less (suite/deadline.py).
SILENCE = 300.0
#: Lines of the kernel's log that a record of a crash keeps, from its beginning and its end.
_LOG_HEAD, _LOG_TAIL = 200, 100

#: The end of a session in which pytest failed by itself (pytest.ExitCode).
_INTERNAL_ERROR = 3
#: How a stack begins that the watchdog of suite/deadline.py writes.
_HUNG = "Timeout ("
#: Frames of a dumped stack that are not the test's.
_MACHINERY = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "<frozen runpy>")

OnEvent = Callable[[Record | dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What children are to do. `timeout`: seconds for all of them together.

    `argv` gives the command line of a child, from the node ids that have a record already. `check`
    is called with what a child said and how it ended, and raises UsageError for a job that can't be
    done. `stops_early`: a failure ends the job, so a crash does too.
    """

    argv: Callable[[Collection[str]], Sequence[str]]
    timeout: float
    environment: Mapping[str, str] = field(default_factory=dict)
    writable: Sequence[Path] = ()
    check: Callable[[Child, HostRun], None] = lambda child, run: None
    stops_early: bool = False
    #: Seconds for which a child may write nothing; a test with a deadline of its own has longer.
    silence: float = SILENCE
    #: Commands for the shell that run on the host once a child has ended.
    after: Sequence[str] = ()


def supervise(host: Host, job: Job, result: HostResult, on_event: OnEvent) -> None:
    """Do `job` on `host`; `on_event` gets each record and event as it comes.

    `result` gets a record for each test that was planned, and whatever ends this function, also an
    interruption by an exception, what finished is in it and what did not is told.
    """
    _Supervisor(host, job, result, on_event).run()


class Child:
    """One child: what it said, line by line."""

    def __init__(self, take: OnEvent) -> None:
        self._take_event = take
        self._partial = {"stdout": b"", "stderr": b""}
        #: The tests to come, node id to id, and the id and node id of the one that runs.
        self.planned: dict[str, str] | None = None
        self.current: tuple[str, str] | None = None
        self._started = 0.0
        self._deadline = 0.0
        #: The session's exit status, once it came to its end.
        self.ended: int | None = None
        #: Why the request was wrong, if the child says so.
        self.usage: str | None = None
        #: Of standard error what is no line of the protocol, and standard output.
        self.noise: deque[str] = deque(maxlen=_TAIL_LINES)
        self.output: deque[str] = deque(maxlen=_TAIL_LINES)

    def take(self, stream: str, data: bytes) -> None:
        """Take output as it comes: events, records and noise are on stderr."""
        *lines, self._partial[stream] = (self._partial[stream] + data).split(b"\n")
        for line in lines:
            self._line(stream, line)

    def finish(self) -> None:
        """Take what came after the last whole line of each stream."""
        for stream, line in self._partial.items():
            self._line(stream, line)

    def _line(self, stream: str, line: bytes) -> None:
        value = parse(line) if stream == "stderr" and line.startswith(b"{") else None
        if value is None:
            if line.strip():
                kept = self.noise if stream == "stderr" else self.output
                kept.append(line.decode("utf-8", "replace"))
            return
        if isinstance(value, Record):
            self.current = None
        elif value["event"] == "plan":
            self.planned = {nodeid: test_id for test_id, nodeid in value["tests"]}
        elif value["event"] == "start":
            self.current = (value["id"], value["nodeid"])
            self._started = time.monotonic()
            self._deadline = float(value.get("deadline", 0))
        elif value["event"] == "end":
            self.ended = value["exitstatus"]
        elif value["event"] == "usage":
            self.usage = value["message"]
        self._take_event(value)

    @property
    def seconds(self) -> float:
        """For how long the current test has run."""
        return 0.0 if self.current is None else round(time.monotonic() - self._started, 6)

    def silence(self, allowed: float) -> float:
        """Return for how many seconds it may write nothing now, where `allowed` is the rule.

        A test with a deadline of its own has as much longer as its watchdog gives it.
        """
        return max(allowed, 2 * self._deadline + 60 if self.current else 0)

    @property
    def hung(self) -> bool:
        """Whether its own watchdog ended it."""
        return any(line.startswith(_HUNG) for line in self.noise)

    @property
    def died(self) -> bool:
        """Whether it did not come to its end, or not in peace."""
        return self.ended in (None, _INTERNAL_ERROR)


class _Supervisor:
    def __init__(self, host: Host, job: Job, result: HostResult, on_event: OnEvent) -> None:
        self._host = host
        self._job = job
        self._result = result
        self._on_event = on_event
        self._recorded: set[str] = set()
        self._planned: dict[str, str] = {}  # of the first child: later ones have fewer
        self._child = Child(self._take)
        #: Why hosts were refused, and whether a child was done again because its time was wrong.
        self._boots_refused: list[str] = []
        self._again = False

    def run(self) -> None:
        began = time.monotonic()
        try:
            self._not_run(self._children(began))
        except (KeyboardInterrupt, SystemExit) as error:
            self._interrupted(error)
            raise
        except UsageError:
            raise
        except HarnessError as error:
            self._add_current(f"the host failed in this test: {error}")
            self._add(Record.of_host(self._result.label, "error", reason=str(error)))
            self._not_run("the host failed")
        finally:
            self._result.seconds = time.monotonic() - began

    def _children(self, began: float) -> str:
        """Run child after child, and say why what is left then was not run."""
        for _ in range(1 + CRASHES):
            left = self._job.timeout - (time.monotonic() - began)
            before = len(self._result.records)
            run = self._run_child(max(left, 1.0))
            if run.verdict is Verdict.WRONG_TIME and not self._again:
                self._do_again(before, run.detail)
                continue
            if run.verdict is Verdict.WRONG_TIME:
                self._add(dying_record(self._result, self._child, run, self._job.timeout))
                return f"the host was refused twice: {run.detail}"
            if self._child.died:
                self._add(dying_record(self._result, self._child, run, self._job.timeout))
            elif self._child.current is not None:
                self._add_current("the session ended in this test")
            if self._job.stops_early:
                return "the run was told to stop at a failure"
            if not self._child.died:
                return "the session ended before it"
            if time.monotonic() - began >= self._job.timeout:
                return "the run's time was over"
            if not self._left():
                break
        return "the tests crashed too often"

    def _run_child(self, timeout: float) -> HostRun:
        child = self._child = Child(self._take)
        run = self._host.run(
            self._job.argv(self._recorded),
            timeout=timeout,
            env=self._job.environment,
            writable=self._job.writable,
            on_output=child.take,
            silence=lambda: child.silence(self._job.silence),
            after=self._job.after,
        )
        self._result.after += run.after
        child.finish()
        self._note(run)
        self._job.check(child, run)
        return run

    def _do_again(self, since: int, reason: str) -> None:
        """Forget the records since that number: they were made in a wrong time."""
        self._again = True
        dropped = self._result.records[since:]
        del self._result.records[since:]
        self._recorded -= {record.nodeid for record in dropped}
        self._refused([reason])
        self._on_event({"event": "again", "reason": reason, "dropped": dropped})

    def _note(self, run: HostRun) -> None:
        """Add to the host's facts what this run told of it."""
        if run.clock_rate is not None:
            rate = round(run.clock_rate, 4)
            self._result.facts = {**self._result.facts, "clock_rate": rate}
        if run.restored:
            self._result.facts = {**self._result.facts, "restored": True}
        self._refused(run.refused)

    def _refused(self, reasons: Sequence[str]) -> None:
        if reasons:
            self._boots_refused += reasons
            self._result.facts = {**self._result.facts, "refused_boots": self._boots_refused}

    def _take(self, value: Record | dict[str, Any]) -> None:
        if isinstance(value, Record):
            self._add(value)
            return
        if value["event"] == "plan" and not self._planned:
            self._planned = {nodeid: test_id for test_id, nodeid in value["tests"]}
        self._on_event(value)

    def _add(self, record: Record) -> None:
        if record.nodeid in self._recorded and not record.is_of_host:
            return  # each child finds anew what can't be collected
        self._recorded.add(record.nodeid)
        self._result.records.append(record)
        self._on_event(record)

    def _left(self) -> list[str]:
        return [nodeid for nodeid in self._planned if nodeid not in self._recorded]

    def _not_run(self, why: str) -> None:
        label = self._result.label
        for nodeid in self._left():
            test_id, reason = self._planned[nodeid], f"not run: {why}"
            self._add(Record.of(label, test_id, nodeid, "error", reason=reason, cause="not-run"))

    def _add_current(self, reason: str) -> None:
        child = self._child
        if child.current is not None:
            label, seconds = self._result.label, child.seconds
            self._add(Record.of(label, *child.current, "error", reason=reason, seconds=seconds))

    def _interrupted(self, error: BaseException) -> None:
        how = "interrupted" if isinstance(error, KeyboardInterrupt) else "ended from outside"
        self._add_current(f"the run was {how} in this test")
        self._not_run(f"the run was {how}")
        if not self._result.records:
            reason = f"not run: the run was {how} before any test began"
            self._add(Record.of_host(self._result.label, "error", reason=reason, cause="not-run"))


# ------------------------------------------------------------------ when a child died


def dying_record(result: HostResult, child: Child, run: HostRun, timeout: float) -> Record:
    """Return the record of what ran when a child or its host died; `timeout` is the job's, seconds.

    A crash is the kernel's doing, or the test's own: a failure. What ends a run from outside, or
    between two tests, is nobody's fault that can be named: an error.
    """
    internal = child.ended == _INTERNAL_ERROR
    logged = [] if child.current is None else run.kernel_log_since(child.current[0])
    said = [*(child.output if internal else ()), *child.noise]
    told = (run.explain(), *_without_machinery(said))
    values: dict[str, Any] = {
        "seconds": child.seconds,
        "reason": _why(child, run, timeout) + _said(logged),
        "kernel_log": _cut(list(map(str, logged))),
        "report": "\n".join(filter(None, (*told, run.how_again()))),
    }
    if run.verdict in (Verdict.TIMEOUT, Verdict.SILENT) or child.hung:
        values["cause"] = "timeout"
    if child.current is None:
        return Record.of_host(result.label, "error", **values)
    ours = internal or run.verdict in (
        Verdict.TIMEOUT,
        Verdict.QEMU_CRASHED,
        Verdict.BOOT_FAILED,
        Verdict.WRONG_TIME,
    )
    return Record.of(result.label, *child.current, "error" if ours else "failed", **values)


def _said(logged: Sequence[KernelLine]) -> str:
    found = dict.fromkeys(texts(findings(logged)))
    return f"; the kernel logged: {'; '.join(found)}" if found else ""


def _cut(lines: list[str]) -> tuple[str, ...]:
    """Leave out the middle of a long log: it began with what went wrong, and ended with the end."""
    left_out = len(lines) - _LOG_HEAD - _LOG_TAIL
    if left_out <= 0:
        return tuple(lines)
    return (*lines[:_LOG_HEAD], f"... {left_out} lines left out ...", *lines[-_LOG_TAIL:])


def _without_machinery(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        frame = line.startswith("  File ")
        if not (frame and any(part in line for part in _MACHINERY)):
            yield line


def _why(child: Child, run: HostRun, timeout: float) -> str:
    last = child.noise[-1] if child.noise else f"status {run.status}, without a word"
    if run.verdict is Verdict.TIMEOUT:
        return f"still running when the run's {timeout:g} s were over"
    if run.verdict is not Verdict.FINISHED:
        return f"{run.verdict}: {run.detail}"
    if child.ended == _INTERNAL_ERROR:
        mark = "INTERNALERROR> "
        said = [line.removeprefix(mark) for line in child.output if line.startswith(mark)]
        return f"pytest failed by itself: {said[-1] if said else 'without a word'}"
    if child.planned is None:
        return f"the tests could not be started: {last}"
    if child.hung:
        return "hung: its deadline had no effect, and the test process was ended"
    status = run.status or 0
    if status > 128:
        try:
            return f"the test process was killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    where = "between two tests" if child.current is None else "in the middle of the test"
    return f"the test process ended with status {status} {where}"
