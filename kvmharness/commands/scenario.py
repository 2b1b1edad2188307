# SPDX-License-Identifier: MIT
"""``kvmharness scenario``: what one scenario tries, where it is, and what kernels promise of it."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness.commands.contract import chosen

if TYPE_CHECKING:
    from kvmharness.contract.rows import Contract
    from kvmharness.scenarios.scenario import Scenario


@click.command(short_help="What a scenario tries, where it is, what kernels promise of it.")
@click.argument("scenario_id", metavar="ID")
def scenario(scenario_id: str) -> None:
    """Show the scenario ID: its source, what it needs, its steps, each generation's promise.

    ID may be a part of the id. If it means several scenarios, they are listed.
    """
    from kvmharness.contract import files
    from kvmharness.scenarios import catalog

    scenarios = catalog.all_scenarios()
    found = [scenario_id] if scenario_id in scenarios else chosen([scenario_id], list(scenarios))
    if len(found) > 1:
        for each in found:
            click.echo(f"{each}  {place(scenarios[each])}  {scenarios[each].summary}")
        return
    _show(scenarios[found[0]], files.load())


def place(scenario: Scenario) -> str:
    """Return where the scenario's steps are written: file:line, from the package's directory."""
    function = scenario.action
    while isinstance(function, partial):
        function = function.func
    code = inspect.unwrap(function).__code__
    package = Path(__file__).parents[1]
    return f"{Path(code.co_filename).relative_to(package.parent)}:{code.co_firstlineno}"


def _show(scenario: Scenario, contract: Contract) -> None:
    click.echo(f"{scenario.id}: {scenario.summary}")
    click.echo(f"  source   {place(scenario)}")
    needs = [f"a VM of type {scenario.vm_type.label}", *scenario.needs]
    needs += ["permission to take the host down (--destructive)"] if scenario.destructive else []
    click.echo(f"  needs    {', '.join(needs)}")
    calls = contract.calls(scenario.id)
    for row in contract.of(scenario.id):
        click.echo(f"\n  {row.kernels}{' (queued)' if row.queued else ''}")
        for number, one in enumerate(row.promised):
            if number:
                click.echo(f"    or, {one.why}" if one.why else "    or")
            for step, (call, words) in enumerate(zip(calls, one.outcome, strict=True), 1):
                mark = "  (rests on the stand-in)" if step in row.stand_in else ""
                click.echo(f"    {step}. {call.removeprefix('= ')}: {words}{mark}")
            for line in one.log:
                click.echo(f"    kernel log: {line}")
        click.echo(f"    {row.why} [{row.origin}]")
