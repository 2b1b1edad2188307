# SPDX-License-Identifier: MIT
"""``kvmharness series``: what a series of patches changes, without a kernel tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from kvmharness import host_kinds
from kvmharness.errors import MissingCapability, UsageError

if TYPE_CHECKING:
    from kvmharness.kernels.series import Series
    from kvmharness.review.model import Review
    from kvmharness.review.work import Wanted


def selection(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options for what a series is tried on: the kernel and the scenarios."""
    for option in (
        click.option(
            "--only",
            multiple=True,
            metavar="SELECT",
            help="Only scenarios whose id is meant (snp.source, tdx.*.null). Repeatable.",
        ),
        click.option(
            "--vm-type",
            "vm_types",
            type=click.Choice(host_kinds.VM_TYPES),
            multiple=True,
            help="Whose scenarios; all by default. Repeatable.",
        ),
        click.option(
            "--kernel",
            default=host_kinds.DEFAULT_KERNEL,
            show_default=True,
            metavar="KERNEL",
            help="The packaged kernel to apply it to: a series (6.12), newest, or a variant of "
            "one.",
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="What a series of patches changes, without a kernel tree.")
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@selection
@click.option(
    "--each", is_flag=True, help="Build every patch, and name the first that breaks or changes."
)
@click.option(
    "--meant",
    multiple=True,
    metavar="SELECT",
    help="Scenarios whose outcome the series means to change. Repeatable.",
)
@click.option("--text", "as_text", is_flag=True, help="Print it for a reply: ASCII, 76 columns.")
@click.option(
    "--tested-by",
    metavar="'NAME <MAIL>'",
    help="With --text: add the trailer, if nothing broke.",
)
@click.option("--json", "json_", metavar="FILE", help="Write it as JSON to FILE (- for stdout).")
@click.option("--fresh", is_flag=True, help="Observe again what is cached.")
def series(
    files: tuple[str, ...],
    kernel: str,
    vm_types: tuple[str, ...],
    only: tuple[str, ...],
    each: bool,
    meant: tuple[str, ...],
    as_text: bool,
    tested_by: str | None,
    json_: str | None,
    fresh: bool,
) -> int:
    """Apply a series to a packaged kernel's source and show what it changes on emulated hosts.

    FILES is an mbox, .patch files, a directory of them, commits of a git tree (TREE@BASE..TOPIC),
    or with b4 installed a message id. Only KVM's modules are built: a hunk elsewhere is refused.
    The scenarios run on hosts with and without the series.

    Exit status: 0 nothing changed, 1 something broke (a build, a promise, the kernel) or could not
    be told, 2 wrong usage, 3 something changed and nothing broke, 4 it can't be tested here.
    """
    from kvmharness.kernels.patch_tool import DoesNotApply
    from kvmharness.kernels.series import read
    from kvmharness.report.console import console
    from kvmharness.report.output import ReportFile
    from kvmharness.review import model, text

    if tested_by is not None and not as_text:
        raise UsageError("--tested-by is for a reply: give --text as well")
    if tested_by is not None and not re.fullmatch(r"[^<>]*\S <[^<>\s@]+@[^<>\s@]+>", tested_by):
        raise UsageError(f"--tested-by {tested_by!r}: give 'Name <mail@example.org>'")
    wanted = request(read(files), kernel, vm_types, only=only, each=each, meant=meant, fresh=fresh)
    with ExitStack() as owned:
        report = owned.enter_context(ReportFile(json_)) if json_ is not None else None
        try:
            review = examine(wanted)
        except DoesNotApply as error:
            raise MissingCapability(wanted.series.name, str(error)) from None
        if report is not None:
            report.write(model.render(review))
        width = text.WIDTH if as_text else min(max(console().width, 60), 120)
        shown = text.render(review, width, tested_by or "")
        click.echo(shown, nl=False, err=json_ == "-")
    if tested_by and not review.vouched_for:
        what = "something broke" if review.broke else "not all could be told"
        click.echo(f"kvmharness: no Tested-by: {what}", err=True)
    return review.status


def request(
    series: Series,
    kernel: str,
    vm_types: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    each: bool = False,
    meant: Sequence[str] = (),
    fresh: bool = False,
) -> Wanted:
    """Return what to do with a series; see the options.

    UsageError for a kernel or selection that names nothing, MissingCapability for a series that
    changes what is not KVM's alone.
    """
    from kvmharness.kernels import kernels, spec
    from kvmharness.kvm.vmtypes import VmType
    from kvmharness.review.work import Wanted
    from kvmharness.scenarios import catalog

    asked = spec.parse(kernel)
    if asked.is_tree or asked.patches:
        raise UsageError(
            f"--kernel {kernel}: give a packaged kernel (7.3); the patches are the FILES, and a "
            "tree is built with the series in it"
        )
    if refused := series.refusal():
        raise MissingCapability(series.name, refused)
    chosen = vm_types or host_kinds.VM_TYPES
    scenarios = {name: catalog.scenarios(VmType.parse(name)) for name in chosen}
    ids = [scenario for found in scenarios.values() for scenario in found]
    taken = set(_selected(only, ids)) if only else set(ids)
    left_out = []
    if len(chosen) < len(host_kinds.VM_TYPES):
        missing = [name for name in host_kinds.VM_TYPES if name not in chosen]
        left_out.append(f"VM types that were not asked for: {', '.join(missing)}")
    if len(taken) < len(ids):
        left_out.append(f"{len(ids) - len(taken)} scenarios that were not asked for")
    return Wanted(
        series,
        kernels.get(asked.base),
        asked.variant,
        {
            name: some
            for name, found in scenarios.items()
            if (some := {i: s for i, s in found.items() if i in taken})
        },
        each,
        set(_selected(meant, ids)) if meant else (),
        fresh,
        tuple(left_out),
    )


def examine(wanted: Wanted) -> Review:
    """Build, boot and compare. Raises DoesNotApply, MissingCapability."""
    from kvmharness.contract import files as contract
    from kvmharness.review.work import Work

    return Work(wanted, contract.load()).run()


def _selected(select: Sequence[str], ids: list[str]) -> list[str]:
    from kvmharness.selection import choose

    try:
        flags = choose(select, [(name, name) for name in ids])
    except LookupError as error:
        raise UsageError(str(error.args[0]).replace("no test is", "no scenario is")) from None
    return [name for name, chosen in zip(ids, flags, strict=True) if chosen]
