# SPDX-License-Identifier: MIT
"""``kvmharness bench``: how fast the harness is, beside C in the same run."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from kvmharness import exit_status
from kvmharness.errors import MissingCapability, UsageError

if TYPE_CHECKING:
    from kvmharness.bench.c_half import Turn


@click.command(short_help="How fast it is, beside C in the same run.")
@click.argument("rows", nargs=-1, metavar="[ROW]...")
@click.option(
    "--rounds", type=click.IntRange(1), default=41, show_default=True, help="Turns of each side."
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the figures to FILE too; - is standard output, alone.",
)
@click.option("--list", "list_rows", is_flag=True, help="List the rows, and measure nothing.")
@click.pass_context
def bench(
    ctx: click.Context, rows: tuple[str, ...], rounds: int, json_file: str | None, list_rows: bool
) -> None:
    """Measure ROWs, by default all: what an operation takes here, and in C that does the same.

    Both take turns, so that what else the machine does meets both; the ratio of the fastest turns
    is what a quiet machine gives. C is compiled on the spot; without a compiler there are this
    package's figures alone. Status 4 without /dev/kvm.
    """
    from kvmharness.bench import shown
    from kvmharness.bench.c_half import NoCompiler, c_half
    from kvmharness.bench.rows import PORT_WRITER, every_row
    from kvmharness.bench.starting import STARTS, measure
    from kvmharness.bench.turns import take_turns
    from kvmharness.kvm.system import Kvm
    from kvmharness.report.console import console
    from kvmharness.report.output import ReportFile

    with ExitStack() as stack:
        report = stack.enter_context(ReportFile(json_file)) if json_file else None
        try:
            kvm = stack.enter_context(Kvm.open())
        except MissingCapability as error:
            click.echo(f"nothing to measure: {error}")
            ctx.exit(exit_status.NOTHING_RAN)
        known = every_row(kvm, stack)
        names = [row.name for row in known] + [start.name for start in STARTS]
        if list_rows:
            click.echo("\n".join(names))
            return
        if unknown := set(rows) - set(names):
            raise UsageError(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
        wanted = set(rows or names)
        in_c: Turn | None = None
        no_c = ""
        try:
            in_c = stack.enter_context(c_half(PORT_WRITER))
        except NoCompiler as error:
            no_c = str(error)
        started = [(start, measure(start, rounds)) for start in STARTS if start.name in wanted]
        measured = [(row, take_turns(row, in_c, rounds)) for row in known if row.name in wanted]
    if report is not None:
        report.write(json.dumps(shown.as_json(measured, started, no_c), indent=1) + "\n")
        if report.is_stdout:
            return
    shown.show(console(), measured, started, no_c)
