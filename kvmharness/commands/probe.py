# SPDX-License-Identifier: MIT
"""``kvmharness probe``: what this host offers, and which paths would run or skip."""

from __future__ import annotations

import json

import click


@click.command(short_help="What this host offers, and what would run or skip.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def probe(as_json: bool) -> None:
    """Say what this host offers, and which paths of the suite would run or skip, and why.

    Everything is asked or tried, nothing is changed. Exit status 0, also without /dev/kvm.
    """
    from kvmharness.probe import verdict
    from kvmharness.probe.facts import gather

    facts = gather()
    facts["paths"] = verdict.judge(facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    from kvmharness.report import probe_table
    from kvmharness.report.console import console

    probe_table.show(console(), facts)
