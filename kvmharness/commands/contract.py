# SPDX-License-Identifier: MIT
"""``kvmharness contract``: what a kernel promises, for a terminal, a document or a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kvmharness.errors import UsageError

if TYPE_CHECKING:
    from kvmharness.contract.shown import Promised
    from kvmharness.scenarios.scenario import Scenario


@click.command(short_help="What a kernel promises, and where that comes from.")
@click.argument("select", nargs=-1, metavar="[SELECT]...")
@click.option(
    "--kernel",
    metavar="RELEASE",
    help="What this kernel promises: a release (7.1.4) or a series (7.1). Without: every kernel.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("table", "rst", "json")),
    default="table",
    show_default=True,
    help="A table for the terminal, a chapter for Documentation/virt/kvm, or JSON.",
)
def contract(select: tuple[str, ...], kernel: str | None, format_: str) -> None:
    """Print what kernels promise for the scenarios that SELECT means, with commit and reason.

    SELECT is an id or its beginning (snp.source), a glob, or a part of one; without it, all.
    """
    from kvmharness.contract import files, shown
    from kvmharness.scenarios import catalog

    check_kernel(kernel)
    scenarios = catalog.all_scenarios()
    ids = list(scenarios)
    promised = shown.promised(files.load(), chosen(select, ids), ids, kernel)
    if format_ == "json":
        click.echo(shown.render(promised, kernel))
    elif format_ == "rst":
        click.echo(_rst(promised, scenarios, kernel), nl=False)
    else:
        _table(promised)


def chosen(select: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Return the ids that `select` means, all without any. UsageError for what means none."""
    from kvmharness.selection import choose

    if not select:
        return list(ids)
    try:
        wanted = choose(select, [(each, each) for each in ids])
    except LookupError as error:
        raise UsageError(str(error).replace("no test is", "no scenario is")) from None
    return [each for each, meant in zip(ids, wanted, strict=True) if meant]


def check_kernel(kernel: str | None) -> None:
    """Raise UsageError if `kernel` names no release."""
    from kvmharness.release import NotARelease, parse_release

    if kernel is not None:
        try:
            parse_release(kernel)
        except NotARelease as error:
            raise UsageError(str(error)) from None


def _table(promised: Sequence[Promised]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from kvmharness.report.console import console

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 1, 0))
    table.add_column("scenarios", overflow="fold", ratio=3)
    table.add_column("promised", overflow="fold", ratio=2)
    table.add_column("kernels", ratio=1)
    table.add_column("why", ratio=4)
    for each in promised:
        table.add_row(
            Text("\n".join(each.named)),
            Text("\n".join(each.outcomes)),
            Text(each.row.kernels),
            Text(f"{each.row.why} [{each.row.origin}]"),
        )
    console().print(table)


def _rst(promised: Sequence[Promised], scenarios: dict[str, Scenario], kernel: str | None) -> str:
    from kvmharness.contract.rst import chapter

    summaries = {name: scenario.summary for name, scenario in scenarios.items()}
    return chapter(promised, summaries, kernel)
