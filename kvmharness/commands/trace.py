# SPDX-License-Identifier: MIT
"""``kvmharness trace``: a trace file for a person to read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import click

from kvmharness.errors import UsageError


@click.command(short_help="Show a trace of ioctls.")
@click.argument("file", metavar="FILE")
@click.option("--errors", is_flag=True, help="Show the calls that failed, alone.")
@click.option("--ioctl", metavar="TEXT", help="Show the calls whose name contains TEXT.")
@click.option("--fd", type=int, metavar="N", help="Show the calls on this fd.")
@click.option("--summary", is_flag=True, help="Count calls and errors by name instead.")
def trace(file: str, errors: bool, ioctl: str | None, fd: int | None, summary: bool) -> None:
    """Show FILE, written by --trace or with KVMHARNESS_TRACE, one line a call (- for stdin)."""
    entries = [
        entry
        for entry in _read(file)
        if (not errors or entry.get("errno") != "ok")
        and (ioctl is None or ioctl.upper() in entry["ioctl"].upper())
        and (fd is None or entry.get("fd") == fd)
    ]
    if summary:
        _summarise(entries)
        return
    from kvmharness.report.trace_text import line

    for entry in entries:
        click.echo(f"{entry.get('t', 0):10.6f} {line(entry)}")


def _read(file: str) -> Iterator[dict[str, Any]]:
    try:
        with click.open_file(file, encoding="utf-8", errors="replace") as lines:
            for number, text in enumerate(lines, 1):
                try:
                    entry = json.loads(text)
                    entry["ioctl"].upper()
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise UsageError(f"{file}, line {number}: not an entry of a trace") from None
                yield entry
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from None


def _summarise(entries: list[dict[str, Any]]) -> None:
    from collections import Counter

    from rich import box
    from rich.table import Table

    from kvmharness.report.console import console

    calls = Counter(entry["ioctl"] for entry in entries)
    failures = Counter(
        (entry["ioctl"], entry["errno"]) for entry in entries if entry.get("errno") != "ok"
    )
    time = Counter[str]()
    for entry in entries:
        time[entry["ioctl"]] += entry.get("us") or 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for name in ("ioctl", "calls", "total ms", "errors"):
        table.add_column(name, justify="right" if name in ("calls", "total ms") else "left")
    for name, count in calls.most_common():
        errors = ", ".join(f"{n} {e}" for (i, e), n in failures.most_common() if i == name)
        table.add_row(name, str(count), f"{time[name] / 1000:.1f}", errors)
    console().print(table)


def start_trace(path: str) -> None:
    """Have this process and its children write their ioctls to `path`, which is emptied first.

    By the environment: kvmharness.kvm.ioctl reads it when it is imported, and children inherit it.
    """
    try:
        with open(path, "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise UsageError(f"can't write the trace to {path}: {error.strerror}") from None
    os.environ["KVMHARNESS_TRACE"] = os.path.abspath(path)
