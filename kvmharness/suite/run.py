# SPDX-License-Identifier: MIT
"""Running the suite on a host: pytest in a process of its own, its records as they come.

A process of its own, so that a crash, a hang or a panic is a verdict on the test that was running
and not the end of the report. The rest of the tests then run in the next process.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kvmharness import resources
from kvmharness.errors import HarnessError, UsageError
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.labels import HostLabel
from kvmharness.report.records import Record, parse
from kvmharness.report.result import HostResult

#: Folders of the suite that are not for hosts: they test the package itself.
_NOT_FOR_HOSTS = frozenset({"unit", "cli", "hosts"})
#: How often a crash of the test process is followed by another process for the remaining tests.
_CRASHES = 10
#: Lines of output kept for the report of a crash.
_TAIL_LINES = 60

#: pytest's exit statuses (pytest.ExitCode).
_PYTEST_INTERNAL_ERROR = 3
_PYTEST_USAGE = 4
_FAULTHANDLER_TIMEOUT = "Timeout ("
_MACHINERY = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "<frozen runpy>")

OnEvent = Callable[[Record | dict[str, Any]], None]


class SuiteHost(Protocol):
    """What of a host is used here; hosts.run.Host has more."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Kind, kernel release, and whether it is emulated."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path] = (),
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> HostRun:
        """Run `argv` for at most `timeout` seconds."""


@dataclass(frozen=True)
class Request:
    """What to run. `timeout`: seconds for the whole of it; `deadline`: for a phase of a test."""

    select: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    destructive: bool = False
    timeout: float = 1800.0
    deadline: float = 120.0
    pytest_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def stops_early(self) -> bool:
        """Whether pytest is told to stop at a failure; a crash then is one too."""
        return any(arg in ("-x", "--exitfirst") or "--maxfail" in arg for arg in self.pytest_args)


def suite_folders() -> list[str]:
    """Return the names of the suite's folders that are for hosts: kvm, snp, ..."""
    folder = resources.suite_dir()
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in _NOT_FOR_HOSTS and any(path.glob("test_*.py"))
    )


def run_suite(host: SuiteHost, label: HostLabel, request: Request, on_event: OnEvent) -> HostResult:
    """Run what `request` selects on `host`; `on_event` gets each record and event as it comes.

    Raises UsageError when the selection means nothing, HarnessError when pytest could not begin.
    """
    result = HostResult(label, host.facts)
    began = time.monotonic()
    planned: dict[str, str] = {}  # node id to id, of the first process: later ones have fewer

    with tempfile.TemporaryDirectory(prefix="kvmharness-run-") as name:
        folder = Path(name)
        for _ in range(1 + _CRASHES):
            attempt = _Attempt(on_event)
            left = request.timeout - (time.monotonic() - began)
            run = attempt.run(host, request, max(left, 1.0), folder, result.records)
            planned = planned or attempt.planned
            result.records += attempt.records
            if attempt.ended is None:
                _blame(attempt, run, label, request, result, on_event)
            recorded = {record.nodeid for record in result.records}
            remaining = [nodeid for nodeid in planned if nodeid not in recorded]
            out_of_time = time.monotonic() - began >= request.timeout
            if attempt.ended is not None or not remaining or out_of_time or request.stops_early:
                break
        why = "pytest ended before it"
        if attempt.ended is None:
            why = "the run's time was over" if out_of_time else "the tests crashed too often"
        if request.stops_early:
            why = "pytest was told to stop at a failure"
        for nodeid in remaining:
            missing = Record.of(
                label, planned[nodeid], nodeid, "error", reason=f"not run: {why}", cause="not-run"
            )
            result.records.append(missing)
            on_event(missing)
    result.seconds = time.monotonic() - began
    return result


class _Attempt:
    """One process of pytest: what it said, line by line."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._partial = b""
        self.records: list[Record] = []
        self.planned: dict[str, str] = {}
        self.current: tuple[str, str] | None = None
        self.ended: int | None = None
        self.usage: str | None = None
        self.noise: deque[str] = deque(maxlen=_TAIL_LINES)
        self.output: deque[str] = deque(maxlen=_TAIL_LINES)

    def run(
        self,
        host: SuiteHost,
        request: Request,
        timeout: float,
        folder: Path,
        done: Iterable[Record],
    ) -> HostRun:
        done_file = folder / "done"
        done_file.write_text("".join(f"{record.nodeid}\n" for record in done), encoding="utf-8")
        environment = dict(request.environment)
        wanted_trace = environment.get("KVMHARNESS_TRACE") or os.environ.get("KVMHARNESS_TRACE")
        trace = folder / "trace"
        if wanted_trace:
            # An emulated host writes to shared folders only; the caller's may be any.
            environment["KVMHARNESS_TRACE"] = str(trace)
        run = host.run(
            _pytest_argv(request, done_file),
            timeout=timeout,
            env=environment | _python_path(),
            writable=[folder],
            on_output=self._take,
        )
        self._line(self._partial)
        if wanted_trace and trace.exists():
            with open(wanted_trace, "a", encoding="utf-8") as file:
                file.write(trace.read_text(encoding="utf-8", errors="replace"))
            trace.unlink()
        self._check(run)
        return run

    def _take(self, stream: str, data: bytes) -> None:
        """Take output as it comes: records and noise on stderr, what pytest prints on stdout."""
        if stream == "stdout":
            self.output.extend(data.decode("utf-8", "replace").splitlines())
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        value = parse(line) if line.startswith(b"{") else None
        if value is None:
            if line.strip():
                self.noise.append(line.decode("utf-8", "replace"))
            return
        if isinstance(value, Record):
            self.records.append(value)
            self.current = None
        elif value["event"] == "plan":
            self.planned = {nodeid: test_id for test_id, nodeid in value["tests"]}
        elif value["event"] == "start":
            self.current = (value["id"], value["nodeid"])
        elif value["event"] == "end":
            self.ended = value["exitstatus"]
        elif value["event"] == "usage":
            self.usage = value["message"]
        self._on_event(value)

    def _check(self, run: HostRun) -> None:
        """Raise for a process that never came to running tests."""
        if self.usage is not None:
            raise UsageError(self.usage)
        if run.status == _PYTEST_USAGE and not self.records:
            # argparse's line, or else pytest's own.
            said = [line.partition("error: ")[2] for line in self.noise if "error: " in line]
            said += [line.removeprefix("ERROR: ") for line in self.noise if "ERROR: " in line]
            raise UsageError(said[0] if said else "pytest refused its arguments")
        if self.ended == _PYTEST_INTERNAL_ERROR:
            text = "\n".join([*self.output, *self.noise])
            raise HarnessError(f"pytest failed by itself: {text or 'without a word'}")
        if run.verdict is Verdict.FINISHED and not self.planned and self.ended is None:
            last = self.noise[-1] if self.noise else f"status {run.status}, without a word"
            raise HarnessError(f"the suite could not be started: {last}")


def _pytest_argv(request: Request, done_file: Path) -> list[str]:
    suite = resources.suite_dir()
    return [
        sys.executable,
        "-P",  # the caller's folder holds no modules of the suite's
        "-m",
        "pytest",
        # The caller's project, its settings and its plugins have no say in the suite.
        *("-c", "/dev/null", f"--rootdir={suite}", "--import-mode=importlib"),
        *("-p", "kvmharness.suite.plugin", "-p", "no:cacheprovider"),
        *("-q", "--tb=short", "--continue-on-collection-errors", "-o", "xfail_strict=true"),
        "--kvmharness-strict",
        "--kvmharness-records=/dev/fd/2",
        f"--kvmharness-done={done_file}",
        f"--kvmharness-deadline={request.deadline:g}",
        *(f"--kvmharness-select={pattern}" for pattern in request.select),
        *(f"--kvmharness-require={name}" for name in request.require),
        *(("--kvmharness-destructive",) if request.destructive else ()),
        *request.pytest_args,
        *(str(suite / name) for name in _folders(request.select)),
    ]


def _folders(select: Sequence[str]) -> list[str]:
    """Return the folders to collect: those that the selection names, where it names any.

    Collecting the others costs seconds on an emulated host.
    """
    folders = suite_folders()
    heads = {pattern.replace("/", ".").replace(":", ".").split(".")[0] for pattern in select}
    # Ids of the folder kvm have several beginnings (gmem, attr, ...); of the others, its name.
    if heads and heads <= set(folders) - {"kvm"}:
        return sorted(heads)
    return folders


def _python_path() -> dict[str, str]:
    """Return the environment in which a child finds this package and no other plugins."""
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    top = resources.checkout_dir()
    if top is not None:
        inherited = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{top}{os.pathsep}{inherited}" if inherited else str(top)
    return environment


# ------------------------------------------------------------------ when the process died


def _blame(
    attempt: _Attempt,
    run: HostRun,
    label: HostLabel,
    request: Request,
    result: HostResult,
    on_event: OnEvent,
) -> None:
    """Record what became of the test that ran when the process or its host ended.

    A crash is the kernel's doing, or the test's own: a failure. What ends a run from outside, or
    between two tests, is nobody's fault that can be named: an error.
    """
    values: dict[str, Any] = {
        "reason": _why_it_ended(attempt, run, request),
        "report": "\n".join([run.explain(), *_without_pytest(attempt.noise)]),
    }
    if run.verdict is Verdict.TIMEOUT or _hung(attempt):
        values["cause"] = "timeout"
    if attempt.current is None:
        record = Record.of_host(label, "error", **values)
    else:
        ours = run.verdict in (Verdict.TIMEOUT, Verdict.QEMU_CRASHED, Verdict.BOOT_FAILED)
        record = Record.of(label, *attempt.current, "error" if ours else "failed", **values)
    result.records.append(record)
    on_event(record)


def _hung(attempt: _Attempt) -> bool:
    return any(line.startswith(_FAULTHANDLER_TIMEOUT) for line in attempt.noise)


def _without_pytest(lines: Iterable[str]) -> Iterator[str]:
    """Leave the frames of pytest's own machinery out of a dumped stack."""
    for line in lines:
        frame = line.startswith("  File ")
        if not (frame and any(part in line for part in _MACHINERY)):
            yield line


def _why_it_ended(attempt: _Attempt, run: HostRun, request: Request) -> str:
    if run.verdict is Verdict.TIMEOUT:
        return f"still running when the run's {request.timeout:g} s were over"
    if run.verdict is not Verdict.FINISHED:
        return f"{run.verdict}: {run.detail}"
    if _hung(attempt):
        return "hung: its deadline had no effect, and the test process was ended"
    status = run.status or 0
    if status > 128:
        try:
            return f"the test process was killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"the test process ended with status {status} in the middle of the test"
