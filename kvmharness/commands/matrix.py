# SPDX-License-Identifier: MIT
"""``kvmharness matrix``: what several kernels do with the same scenarios, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness import exit_status, host_kinds
from kvmharness.errors import UsageError

if TYPE_CHECKING:
    from kvmharness.matrix.collect import Place
    from kvmharness.matrix.model import Matrix
    from kvmharness.report.output import ReportFile
    from kvmharness.scenarios.scenario import Scenario

#: The VM types that have scenarios.
_EMULATED = "emulated"


@click.command(short_help="What several kernels do with the same scenarios, side by side.")
@click.argument("select", nargs=-1, metavar="[SELECT]...")
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="KERNEL",
    help="A kernel to observe: a series (6.12), with patches (7.3+series.mbox) or as a variant "
    "(7.3:sw-protected), newest, or a kernel build tree. Repeatable.",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="NAME=PATH",
    help="Observe each emulated kernel once more with a module of your own in place of its, such "
    "as kvm=kvm.ko, in a column of its own. Repeatable, for that column.",
)
@click.option(
    "--module-option",
    "module_options",
    multiple=True,
    metavar="MODULE.NAME=VALUE",
    help="Observe each emulated kernel once more with it, such as kvm.tdp_mmu=0, in a column "
    "of its own; several for one column go in quotes, with blanks between. Repeatable.",
)
@click.option(
    "--vm-type",
    type=click.Choice(host_kinds.VM_TYPES),
    default="snp",
    show_default=True,
    help="Whose scenarios.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="KIND",
    help="Where: emulated (the default), or native for this machine's kernel. Repeatable.",
)
@click.option("--json", "json_", metavar="FILE", help="Write it as JSON to FILE (- for stdout).")
@click.option("--html", metavar="FILE", help="Write it as one self-contained page to FILE.")
@click.option("--text", "as_text", is_flag=True, help="Print it for a mail: ASCII, 76 columns.")
@click.option("--all", "everything", is_flag=True, help="Show what is alike everywhere, too.")
@click.option("--fresh", is_flag=True, help="Observe again what is cached.")
@click.option(
    "--destructive", is_flag=True, help="With --host native: also what can take this host down."
)
@click.option("--from", "source", metavar="FILE", help="Show a matrix that --json wrote before.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A.json B.json",
    help="Say where two matrices made elsewhere differ: hardware and emulation, for one.",
)
def matrix(
    select: tuple[str, ...],
    kernels: tuple[str, ...],
    modules: tuple[str, ...],
    module_options: tuple[str, ...],
    vm_type: str,
    hosts: tuple[str, ...],
    json_: str | None,
    html: str | None,
    as_text: bool,
    everything: bool,
    fresh: bool,
    destructive: bool,
    source: str | None,
    compare: tuple[str, str] | None,
) -> int:
    """Observe scenarios on several kernels and show what each does, marking what changed.

    SELECT is an id or its beginning (snp.source), a glob (snp.*.null) or a part of one. Nothing is
    asserted: kvmharness run does that. What was observed on an emulated host is cached.

    Exit status: 0 shown, 1 --compare found a difference, 2 wrong usage, 4 nothing could run.
    """
    if compare is not None:
        return _compare(compare, select, (*kernels, *hosts, *modules, *module_options))
    from kvmharness.matrix import model

    ended: BaseException | None = None
    with ExitStack() as files:
        reports = _reserve(json_, html, files)
        if source is not None:
            if kernels or hosts or modules or module_options:
                raise UsageError("--from shows what is in a file; --kernel and --host are for more")
            shown = _selected(model.load(source), select)
        else:
            places = _places(hosts, kernels, modules, module_options, vm_type)
            shown, ended = _observed(select, places, vm_type, fresh, destructive)
        _write(reports, shown)
        _show(shown, as_text, everything, json_ == "-" or html == "-")
    if ended is not None:
        raise ended
    return _status(shown)


def _status(shown: Matrix) -> int:
    """Return the exit status: a kernel that could observe nothing failed; none at all is a skip."""
    from kvmharness.matrix.model import ERROR

    for column in shown.columns:
        if column.absent and any(cell.result == ERROR for cell in column.cells.values()):
            return exit_status.FAILED
    ran = any(cell.ran for row in shown.rows for cell in row.cells.values())
    return 0 if ran else exit_status.NOTHING_RAN


# ------------------------------------------------------------------ observing


def _observed(
    select: Sequence[str],
    places: Sequence[Place],
    vm_type: str,
    fresh: bool,
    destructive: bool,
) -> tuple[Matrix, BaseException | None]:
    """Return the matrix and, where Ctrl-C or SIGTERM cut it short, the exception that did."""
    from kvmharness.contract import files as contract
    from kvmharness.kvm.vmtypes import VmType
    from kvmharness.matrix import explain
    from kvmharness.matrix.collect import Request, absent, collect
    from kvmharness.matrix.model import ERROR, Cell, Column, Matrix
    from kvmharness.scenarios import catalog

    wanted = VmType.parse(vm_type)
    scenarios = _chosen(select, catalog.scenarios(wanted))
    request = Request(wanted, scenarios, fresh, destructive)
    columns: list[Column] = []
    ended: BaseException | None = None
    try:
        for column in collect(places, request):
            columns.append(column)
    except (KeyboardInterrupt, SystemExit) as error:
        # What was seen so far is shown and written; of the kernel it fell into, the cache has it.
        ended = error
        cell = Cell(ERROR, "interrupted before it was observed, or meanwhile")
        for place in places[len(columns) :]:
            columns.append(absent(place, request, [column.name for column in columns], cell))
    summaries = {name: scenario.summary for name, scenario in scenarios.items()}
    shown = Matrix(
        vm_type,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        tuple(columns),
        tuple(explain.rows(contract.load(), columns, summaries)),
    )
    return shown, ended


def _places(
    hosts: Sequence[str],
    kernels: Sequence[str],
    modules: tuple[str, ...],
    module_options: Sequence[str],
    vm_type: str,
) -> list[Place]:
    """Return where to observe: beside each emulated kernel, itself with what is changed."""
    from kvmharness.kernels import module_options as options
    from kvmharness.kernels import own_modules, spec
    from kvmharness.matrix.collect import Place

    own_modules.parse(modules)  # what is wrong with them is told before anything runs
    varied = [(), *dict.fromkeys(options.parse([text]) for text in module_options)]
    made = [(), modules] if modules else [()]
    kind = host_kinds.for_vm_type(vm_type).name
    places: list[Place] = []
    for host in dict.fromkeys(hosts or (_EMULATED,)):
        if host == host_kinds.NATIVE:
            places.append(Place(host))
        elif host in (_EMULATED, kind):
            for kernel in dict.fromkeys(kernels or (host_kinds.DEFAULT_KERNEL,)):
                spec.parse(kernel)
                places += [Place(kind, kernel, own, each) for own in made for each in varied]
        else:
            raise UsageError(f"--host {host}: {vm_type} scenarios are observed on native or {kind}")
    for option, given in (
        ("--kernel", kernels),
        ("--module", modules),
        ("--module-option", module_options),
    ):
        if given and all(place.kind == host_kinds.NATIVE for place in places):
            raise UsageError(f"{option} is for emulated hosts; give --host emulated as well")
    return places


def _chosen(select: Sequence[str], scenarios: dict[str, Scenario]) -> dict[str, Scenario]:
    """Return the scenarios that are meant, topic by topic, the topics as they come first."""
    from kvmharness.selection import topic

    chosen = _choose(select, list(scenarios))
    topics = list(dict.fromkeys(map(topic, chosen)))
    chosen.sort(key=lambda name: topics.index(topic(name)))
    return {name: scenarios[name] for name in chosen}


def _selected(shown: Matrix, select: Sequence[str]) -> Matrix:
    from dataclasses import replace

    chosen = set(_choose(select, [row.id for row in shown.rows]))
    return replace(shown, rows=tuple(row for row in shown.rows if row.id in chosen))


def _choose(select: Sequence[str], ids: list[str]) -> list[str]:
    from kvmharness.selection import choose

    if not select:
        return ids
    try:
        flags = choose(select, [(name, name) for name in ids])
    except LookupError as error:
        raise UsageError(str(error.args[0]).replace("no test is", "no scenario is")) from None
    return [name for name, chosen in zip(ids, flags, strict=True) if chosen]


# ------------------------------------------------------------------ showing


def _reserve(json_: str | None, html: str | None, files: ExitStack) -> dict[str, ReportFile]:
    from kvmharness.report.output import ReportFile

    given = {name: path for name, path in (("json", json_), ("html", html)) if path is not None}
    if len({path if path == "-" else Path(path).resolve() for path in given.values()}) < len(given):
        raise UsageError("--json and --html would go to the same file; give each its own")
    return {name: files.enter_context(ReportFile(path)) for name, path in given.items()}


def _write(reports: dict[str, ReportFile], shown: Matrix) -> None:
    if "json" in reports:
        from kvmharness.matrix import model

        reports["json"].write(model.render(shown))
    if "html" in reports:
        from kvmharness.matrix import html as page

        reports["html"].write(page.render(shown))


def _show(shown: Matrix, as_text: bool, everything: bool, stdout_taken: bool) -> None:
    from kvmharness.matrix import table, text
    from kvmharness.report.console import console

    if as_text:
        click.echo(text.render(shown), nl=False, err=stdout_taken)
    else:
        table.show(console(stderr=stdout_taken), shown, everything=everything)


def _compare(files: tuple[str, str], select: Sequence[str], others: Sequence[str]) -> int:
    from kvmharness.matrix import compare, model

    if others or select:
        raise UsageError("--compare reads two files, whole; give it nothing else")
    left, right = (model.load(file) for file in files)
    result = compare.compare(left, right)
    click.echo(compare.render(result), nl=False)
    return exit_status.FAILED if result.differences else 0
