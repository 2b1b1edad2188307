# SPDX-License-Identifier: MIT
"""``kvmharness run``: the suite on this host, on emulated ones, or on all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import exit_status, host_kinds, labels
from kvmharness.commands.trace import start_trace
from kvmharness.errors import HarnessError, MissingCapability, UsageError
from kvmharness.exit_status import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from kvmharness.hosts.host import Host
    from kvmharness.report.output import ReportFile
    from kvmharness.report.records import Cause, Outcome
    from kvmharness.report.result import HostResult
    from kvmharness.suite.kernel_coverage import KernelCoverage
    from kvmharness.suite.run import Request

ALL = "all"


class _PassThrough(click.Command):
    """A command that keeps what follows ``--`` apart: those are pytest's arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta["pytest_args"] = args[:at], tuple(args[at + 1 :])
        return super().parse_args(ctx, args)


@click.command(
    cls=_PassThrough, options_metavar="[OPTIONS]", short_help="Run the suite on one or more hosts."
)
@click.argument("select", nargs=-1, metavar="[SELECT]... [-- PYTEST_ARGUMENT...]")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="KIND",
    help=f"Where to run: {', '.join(host_kinds.NAMES)} or {ALL}. Repeatable.",
    default=(host_kinds.NATIVE,),
    show_default=True,
)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="KERNEL",
    help="The kernel of emulated hosts: a series (6.12), also with patches (7.3+series.mbox), "
    "newest, or the path of one. Repeatable.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="WHAT",
    help="Fail, not skip, for want of WHAT: kvm, a VM type (snp) or a capability. Repeatable.",
)
@click.option(
    "--allow-log",
    multiple=True,
    metavar="PATTERN",
    help="Let a line of the kernel's log that matches fail no test: another driver's. Repeatable.",
)
@click.option(
    "--contract", metavar="SERIES", help="Hold the kernel to another series' contract (7.3)."
)
@click.option("--destructive", is_flag=True, help="Also run tests that can take this host down.")
@click.option("--ktap", metavar="FILE", help="Write the results as KTAP to FILE (- for stdout).")
@click.option("--junit", metavar="FILE", help="Write the results as JUnit XML to FILE.")
@click.option("--json", "json_", metavar="FILE", help="Write the results as JSON to FILE.")
@click.option("--kcidb", metavar="FILE", help="Write the results for KernelCI's KCIDB to FILE.")
@click.option(
    "--kcidb-build",
    metavar="ORIGIN:ID",
    help="The build in KCIDB that was tested; without it, one is made up from the release.",
)
@click.option("--trace", metavar="FILE", help="Write every ioctl to FILE, one JSON line each.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="The time for the suite on each host.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="The time for each phase of a test.",
)
@click.option(
    "--silence",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="End a test process that says nothing for so long.  [default: twice --deadline, and 60]",
)
@click.option(
    "--after",
    multiple=True,
    metavar="COMMAND",
    help="Run a shell command on the host once the suite has ended, and show it. Repeatable.",
)
@click.option(
    "--keep-vmcore",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="Keep an emulated host's memory in DIR when its kernel panics or hangs.",
)
@click.option(
    "--smp",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processors of an emulated host (races want 2).",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="NAME=PATH",
    help="Load an emulated host with a module of your own, such as kvm=kvm.ko. Repeatable.",
)
@click.option(
    "--module-option",
    "module_options",
    multiple=True,
    metavar="MODULE.NAME=VALUE",
    help="Load an emulated host's modules with it, such as kvm.tdp_mmu=0. Repeatable.",
)
@click.option(
    "--kernel-coverage",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Tell what was reached of KVM's own code on emulated hosts, and write it to DIRECTORY.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show each test, and failures uncut.")
@click.pass_context
def run(
    ctx: click.Context,
    select: tuple[str, ...],
    hosts: tuple[str, ...],
    kernels: tuple[str, ...],
    require: tuple[str, ...],
    allow_log: tuple[str, ...],
    contract: str | None,
    destructive: bool,
    ktap: str | None,
    junit: str | None,
    json_: str | None,
    kcidb: str | None,
    kcidb_build: str | None,
    trace: str | None,
    timeout: float,
    deadline: float,
    silence: float | None,
    after: tuple[str, ...],
    keep_vmcore: Path | None,
    smp: int | None,
    modules: tuple[str, ...],
    module_options: tuple[str, ...],
    kernel_coverage: Path | None,
    verbose: bool,
) -> int:
    """Run the suite, or what SELECT means of it, and say what came of it.

    SELECT is a suite (kvm, snp), an id or its beginning (snp.source.null, gmem.punch), a glob
    (snp.source.*), a node id, or a part of one. What follows -- goes to pytest.

    Exit status: 0 all passed, 1 something failed, or an error left it unknown, 2 wrong usage,
    4 nothing could run.
    """
    from kvmharness.report import result
    from kvmharness.report.console import console
    from kvmharness.suite.run import Request

    if trace is not None:
        start_trace(trace)
    _check_kcidb(kcidb, kcidb_build)
    request = Request(
        select=select,
        require=_checked(require),
        allow_log=allow_log,
        destructive=destructive,
        timeout=timeout,
        deadline=deadline,
        silence=silence,
        after=after,
        pytest_args=ctx.meta.get("pytest_args", ()),
        environment={"KVMHARNESS_CONTRACT": contract} if contract else {},
    )
    places = list(
        _places(hosts, kernels, smp, modules, module_options, kernel_coverage, keep_vmcore)
    )
    coverage = _coverage(kernel_coverage)
    with ExitStack() as files:
        wanted = {"ktap": ktap, "junit": junit, "json": json_, "kcidb": kcidb}
        reports = _reserve(wanted, files)
        out = console(stderr=any(report.is_stdout for report in reports.values()))
        results: list[HostResult] = []
        try:
            for place in places:
                _run_at(place, request, results, out, verbose, coverage)
        except (KeyboardInterrupt, SystemExit) as error:
            results += [_never_begun(place) for place in places[len(results) :]]
            ended = INTERRUPTED if isinstance(error, KeyboardInterrupt) else error.code
            wrong = _write(reports, results, int(ended or 0), kcidb_build)
            said = [_cut_short(error, results, list(reports)), *wrong]
            click.echo(f"kvmharness: {'; '.join(said)}", err=True)
            raise SystemExit(ended) from None
        bisecting = exit_status.BISECT_VARIABLE in os.environ
        status = result.bisect_status(results) if bisecting else result.status(results)
        wrong = _write(reports, results, status, kcidb_build)
    _tell(out, results, status, verbose)
    if coverage is not None and coverage.show(out):
        status = status or exit_status.FAILED
    if wrong:
        raise HarnessError("; ".join(wrong))
    return status


# ------------------------------------------------------------------ the request


def _check_kcidb(file: str | None, build: str | None) -> None:
    from kvmharness.report import kcidb

    if build is not None and file is None:
        raise UsageError("--kcidb-build goes with --kcidb FILE")
    if file is not None:
        kcidb.check_installed()
        kcidb.check_build(build)


def _checked(require: Sequence[str]) -> tuple[str, ...]:
    from kvmharness.suite.requirements import parse

    return tuple(parse(name) for name in require)


@dataclass(frozen=True)
class _Place:
    """A host to be: its kind, and an emulated one's kernel, processors, own modules and options."""

    kind: str
    kernel: str | None = None
    smp: int | None = None
    modules: tuple[str, ...] = ()
    module_options: tuple[str, ...] = ()
    keep_vmcore: Path | None = None


def _places(
    hosts: Sequence[str],
    kernels: Sequence[str],
    smp: int | None,
    modules: tuple[str, ...],
    module_options: Sequence[str],
    kernel_coverage: Path | None,
    keep_vmcore: Path | None,
) -> Iterator[_Place]:
    from kvmharness.kernels.module_options import parse
    from kvmharness.kernels.own_modules import parse as parse_modules

    parse_modules(modules)  # what is wrong with them is told before anything runs
    known = (*host_kinds.NAMES, ALL)
    wanted: list[str] = []
    for kind in hosts:
        if kind not in known:
            raise UsageError(f"--host {kind}: no such host; there are: {', '.join(known)}")
        wanted += host_kinds.NAMES if kind == ALL else [kind]
    wanted = list(dict.fromkeys(wanted))
    options = parse(module_options)
    emulated_only = {
        "--kernel": kernels,
        "--smp": smp,
        "--module": modules,
        "--module-option": options,
        "--kernel-coverage": kernel_coverage,
        "--keep-vmcore": keep_vmcore,
    }
    for option, given in emulated_only.items():
        if given and wanted == [host_kinds.NATIVE]:
            example = next(iter(host_kinds.EMULATED))
            raise UsageError(f"{option} is for emulated hosts; give --host {example} as well")
    for kind in wanted:
        if kind == host_kinds.NATIVE:
            yield _Place(kind)
        else:
            for kernel in kernels or (host_kinds.DEFAULT_KERNEL,):
                yield _Place(kind, kernel, smp, modules, options, keep_vmcore)


def _coverage(directory: Path | None) -> KernelCoverage | None:
    if directory is None:
        return None
    from kvmharness.suite.kernel_coverage import KernelCoverage

    return KernelCoverage(directory)


def _reserve(paths: dict[str, str | None], files: ExitStack) -> dict[str, ReportFile]:
    from kvmharness.report.output import ReportFile

    given = {name: path for name, path in paths.items() if path is not None}
    real = [path if path == "-" else os.path.realpath(path) for path in given.values()]
    if len(set(real)) < len(real):
        raise UsageError("two reports would go to the same file; give each its own")
    return {name: files.enter_context(ReportFile(path)) for name, path in given.items()}


# ------------------------------------------------------------------ one host


def _run_at(
    place: _Place,
    request: Request,
    results: list[HostResult],
    console: Console,
    verbose: bool,
    coverage: KernelCoverage | None,
) -> None:
    """Run on one host, and add what comes of it to `results`, also when it is interrupted.

    A host that can't be had is a result too: a skip, a failure or an error.
    """
    from kvmharness.report.live import RunProgress
    from kvmharness.report.result import HostResult
    from kvmharness.suite.run import run_suite

    try:
        host, label = _host(place, coverage)
    except MissingCapability as error:
        results.append(_absent(place, request, error))
        return
    except HarnessError as error:
        if isinstance(error, UsageError) and not results:
            raise  # nothing has run yet that could be lost
        results.append(_absent_record(place, "error", str(error)))
        return
    purpose = host_kinds.EMULATED.get(place.kind)
    if purpose is not None and not request.select:
        # Where no selection is given: the host's own purpose.
        request = replace(request, select=(purpose.vm_type, *purpose.also))
    results.append(HostResult(label, host.facts))
    whole = (
        purpose is not None
        and request.select in ((purpose.vm_type,), (purpose.vm_type, *purpose.also))
        and not request.pytest_args
    )
    with (
        nullcontext() if coverage is None else coverage.telling(label, whole=whole),
        RunProgress(console, label, verbose) as progress,
    ):
        try:
            run_suite(host, request, results[-1], progress)
        except UsageError as error:
            if len(results) == 1:
                raise
            results[-1] = _absent_record(place, "error", str(error))


def _host(place: _Place, coverage: KernelCoverage | None) -> tuple[Host, labels.HostLabel]:
    if place.kind == host_kinds.NATIVE:
        from kvmharness.hosts.native import NativeHost
        from kvmharness.kvm.system import Kvm

        Kvm.open().close()  # one clear line now, not one for every test
        return NativeHost(), labels.current()
    from kvmharness.hosts.emulated import EmulatedHost
    from kvmharness.hosts.processors import WithProcessors

    host = EmulatedHost.prepare(place.kind, place.kernel or "")
    host = host.with_modules(place.modules).with_module_options(place.module_options)
    runs = WithProcessors(host, place.smp, place.keep_vmcore)
    return (runs if coverage is None else coverage.watch(host, runs)), host.label


def _absent(place: _Place, request: Request, error: MissingCapability) -> HostResult:
    """Return the result of a host that can't be had: failed if what it is for was required."""
    if place.kind == host_kinds.NATIVE:
        wanted = {"kvm", *request.require}  # no /dev/kvm, nothing of what needs it
    else:
        wanted = {host_kinds.EMULATED[place.kind].vm_type}
    missing = sorted(wanted & set(request.require))
    reason = str(error)
    if missing:
        return _absent_record(place, "failed", f"required by --require {missing[0]}: {reason}")
    return _absent_record(place, "skipped", reason)


def _never_begun(place: _Place) -> HostResult:
    return _absent_record(place, "error", "not run: the run was cut short", cause="not-run")


def _absent_record(place: _Place, outcome: Outcome, reason: str, cause: Cause = "") -> HostResult:
    from kvmharness.report.records import Record
    from kvmharness.report.result import HostResult

    label = (
        labels.current()
        if place.kind == host_kinds.NATIVE
        else labels.HostLabel(place.kind, place.kernel or "?")
    )
    return HostResult(label, {}, [Record.of_host(label, outcome, reason=reason, cause=cause)])


# ------------------------------------------------------------------ the end


def _write(
    reports: dict[str, ReportFile],
    results: Sequence[HostResult],
    status: int,
    kcidb_build: str | None,
) -> list[str]:
    """Write each report that can be written; return why the others can't."""
    from kvmharness.report import json_report, junit, kcidb, ktap

    renderings: dict[str, Callable[[], str]] = {
        "ktap": lambda: ktap.render(results),
        "junit": lambda: junit.render(results),
        "json": lambda: json_report.render(results, status),
        "kcidb": lambda: kcidb.render(results, kcidb_build),
    }
    wrong = []
    for name, report in reports.items():
        try:
            report.write(renderings[name]())
        except (OSError, HarnessError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            wrong.append(f"can't write the {name} report to {report.name}: {said}")
    return wrong


def _cut_short(error: BaseException, results: Sequence[HostResult], files: Sequence[str]) -> str:
    """Say in a line what a run that did not come to its end leaves."""
    how = "interrupted" if isinstance(error, KeyboardInterrupt) else "ended from outside"
    not_run = sum(result.not_run for result in results)
    planned = sum(len(result.records) for result in results)
    written = f"; what is known is in the {', '.join(files)} report" if files else ""
    return f"{how}: {not_run} of {planned} tests did not run{written}"


def _tell(console: Console, results: Sequence[HostResult], status: int, verbose: bool) -> None:
    from kvmharness.report import terminal

    records = [record for result in results for record in result.records]
    if len(records) == 1 and records[0].is_of_host and not records[0].report:
        # The only host was not to be had: that is one line, not a table of zeros.
        click.echo(f"kvmharness: {records[0].reason}", err=True)
        return
    terminal.show(console, results, verbose)
    if status == exit_status.NOTHING_RAN:
        console.print("nothing could run")
