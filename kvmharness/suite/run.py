# SPDX-License-Identifier: MIT
"""Running the suite on a host: the command line of pytest, and what came of each test."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness import resources
from kvmharness.errors import UsageError
from kvmharness.hosts.host import Host, HostRun
from kvmharness.hosts.supervise import Child, Job, OnEvent, supervise
from kvmharness.report.result import HostResult

#: Directories of the suite that are not for hosts: they test the package itself.
_NOT_FOR_HOSTS = frozenset({"unit", "cli", "hosts"})
#: pytest's status for arguments it does not take (pytest.ExitCode).
_PYTEST_USAGE = 4


@dataclass(frozen=True)
class Request:
    """What to run. `timeout`: seconds for the whole of it; `deadline`: for a phase of a test."""

    select: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    allow_log: tuple[str, ...] = ()
    destructive: bool = False
    timeout: float = 1800.0
    deadline: float = 120.0
    #: Seconds for which the test process may write nothing; None: by `deadline`.
    silence: float | None = None
    #: Commands for the shell that run on the host once the suite has ended.
    after: tuple[str, ...] = ()
    pytest_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed_silence(self) -> float:
        """For how many seconds the test process may write nothing.

        A test past its deadline is ended by its watchdog in less (suite/deadline.py); what is
        silent for longer is a kernel, or a test, that does not let the watchdog run either.
        """
        return 2 * self.deadline + 60 if self.silence is None else self.silence

    @property
    def stops_early(self) -> bool:
        """Whether pytest is told to stop at a failure; a crash then is one too."""
        return any(arg in ("-x", "--exitfirst") or "--maxfail" in arg for arg in self.pytest_args)


def suite_directories() -> list[str]:
    """Return the names of the suite's directories that are for hosts: kvm, snp, ..."""
    directory = resources.suite_dir()
    return sorted(
        path.name
        for path in directory.iterdir()
        if path.is_dir() and path.name not in _NOT_FOR_HOSTS and any(path.glob("test_*.py"))
    )


def run_suite(host: Host, request: Request, result: HostResult, on_event: OnEvent) -> None:
    """Run what `request` selects on `host`; `on_event` gets each record and event as it comes.

    `result` gets a record for each test, also when an exception interrupts this. Raises UsageError
    when the selection means nothing.
    """
    with tempfile.TemporaryDirectory(prefix="kvmharness-run-") as name:
        directory = Path(name)

        def argv(done: Collection[str]) -> Sequence[str]:
            done_file = directory / "done"
            done_file.write_text("".join(f"{nodeid}\n" for nodeid in done), encoding="utf-8")
            return _pytest_argv(request, done_file)

        with _trace(request, directory) as traced:
            job = Job(
                argv,
                request.timeout,
                {**request.environment, **traced, **_python_path()},
                writable=[directory],
                check=_check,
                stops_early=request.stops_early,
                silence=request.allowed_silence,
                after=request.after,
            )
            supervise(host, job, result, on_event)


@contextmanager
def _trace(request: Request, directory: Path) -> Iterator[dict[str, str]]:
    """Give the environment for a trace, if one is wanted, and bring it to where it is wanted.

    An emulated host writes to shared directories only; the caller's may be any.
    """
    variable = "KVMHARNESS_TRACE"
    wanted = request.environment.get(variable) or os.environ.get(variable)
    if not wanted:
        yield {}
        return
    trace = directory / "trace"
    try:
        yield {variable: str(trace)}
    finally:
        if trace.exists():
            with open(wanted, "a", encoding="utf-8") as file:
                file.write(trace.read_text(encoding="utf-8", errors="replace"))


def _check(child: Child, run: HostRun) -> None:
    """Raise UsageError for what the suite or pytest itself finds wrong with the request."""
    if child.usage is not None:
        raise UsageError(child.usage)
    if run.status == _PYTEST_USAGE and child.planned is None:
        # argparse's line, or else pytest's own.
        said = [line.partition("error: ")[2] for line in child.noise if "error: " in line]
        said += [line.removeprefix("ERROR: ") for line in child.noise if "ERROR: " in line]
        raise UsageError(said[0] if said else "pytest refused its arguments")


def _pytest_argv(request: Request, done_file: Path) -> list[str]:
    suite = resources.suite_dir()
    return [
        sys.executable,
        "-P",  # the caller's directory holds no modules of the suite's
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
        *(f"--kvmharness-allow-log={pattern}" for pattern in request.allow_log),
        *(("--kvmharness-destructive",) if request.destructive else ()),
        *request.pytest_args,
        *(str(suite / name) for name in _directories(request.select)),
    ]


def _directories(select: Sequence[str]) -> list[str]:
    """Return what to collect: the directories that the selection names, where it names any.

    Collecting the others costs seconds on an emulated host; so does collecting a whole directory
    for a file of it.
    """
    directories = suite_directories()
    files = {pattern for pattern in select if pattern.endswith(".py") and _is_file(pattern)}
    others = [pattern for pattern in select if pattern not in files]
    heads = {pattern.replace("/", ".").replace(":", ".").split(".")[0] for pattern in others}
    # Ids of the directory kvm have several beginnings (gmem, attr, ...); of the others, its name.
    if select and heads <= set(directories) - {"kvm"}:
        return sorted(heads | files)
    return directories


def _is_file(pattern: str) -> bool:
    return (resources.suite_dir() / pattern).is_file()


def _python_path() -> dict[str, str]:
    """Return the environment in which a child finds this package and no other plugins."""
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    top = resources.checkout_dir()
    if top is not None:
        inherited = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{top}{os.pathsep}{inherited}" if inherited else str(top)
    return environment
