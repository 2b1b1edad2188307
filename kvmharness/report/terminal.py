# SPDX-License-Identifier: MIT
"""The results of a run for a person: failures and errors whole, the rest by reason, the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kvmharness.report.records import OUTCOMES, Outcome, Record
from kvmharness.report.result import AfterRun, HostResult

#: A failure's text beyond this many lines is cut, unless everything was asked for.
_LINES = 40

STYLES: dict[Outcome, str] = {
    "passed": "green",
    "failed": "bold red",
    "error": "bold magenta",
    "skipped": "yellow",
}
_NOT_RUN = STYLES["error"]


def show(console: Console, results: Sequence[HostResult], verbose: bool = False) -> None:
    """Print failures, errors, skips, what was not run, and counts."""
    several = len(results) > 1
    for result in results:
        for record in result.records:
            if record.outcome in ("failed", "error") and record.ran:
                _failure(console, record, several, verbose)
    _reasons(console, results, "skipped", STYLES["skipped"], lambda r: r.outcome == "skipped")
    _reasons(console, results, "not run", _NOT_RUN, lambda r: not r.ran)
    for result in results:
        for after in result.after:
            _after(console, result, after, verbose)
    console.print(_counts(results))
    for words in dict.fromkeys(r.label.words for r in results if r.label.emulated):
        console.print(Text(words, style="bold yellow"))


def _after(console: Console, result: HostResult, after: AfterRun, verbose: bool) -> None:
    """Print what a command said that ran once the suite had ended: its end, unless all is asked."""
    status = "" if after.status == 0 else f", which ended with status {after.status}"
    console.print(Rule(Text(f"{after.command} on {result.label.kind}{status}"), align="left"))
    lines = after.output.splitlines()
    cut = 0 if verbose else max(len(lines) - _LINES, 0)
    if cut:
        lines = [f"... {cut} lines (all of them with -v, or --json)", *lines[cut:]]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()


def _failure(console: Console, record: Record, several: bool, verbose: bool) -> None:
    where = f" on {record.host} {record.kernel}" if several else ""
    what = ", an error: not the kernel's fault" if record.outcome == "error" else ""
    style = STYLES[record.outcome]
    title = Text(f"{record.id}{where}{what}", style=style)
    console.print(Rule(title, align="left", style=style.removeprefix("bold ")))
    console.print(Text(record.reason, style="bold"), soft_wrap=True)
    lines = record.report.splitlines() if record.report != record.reason else []
    cut = 0 if verbose else max(len(lines) - _LINES, 0)
    if cut:
        # The end of a traceback says what happened; the beginning, how pytest got there.
        lines = [f"... {cut} lines (all of them with -v)", *lines[cut:]]
    _block(console, "", lines)
    _block(console, "last ioctls", record.ioctls)
    _block(console, "kernel log", record.kernel_log)
    console.print(Text(record.nodeid, style="dim"))
    console.print()


def _block(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    if title:
        console.print(Text(title, style="cyan"))
    # Soft wrap: a traceback's lines are copied and searched, and folding breaks them.
    console.print(Text("\n".join(f"  {line}" for line in lines)), soft_wrap=True)


def _reasons(
    console: Console,
    results: Sequence[HostResult],
    title: str,
    style: str,
    wanted: Callable[[Record], bool],
) -> None:
    several = len(results) > 1
    reasons: Counter[tuple[str, str]] = Counter()
    for result in results:
        for record in filter(wanted, result.records):
            host = f"{record.host} {record.kernel}" if several else ""
            reasons[host, record.reason] += 1
    if not reasons:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style=style, no_wrap=True)
    if several:
        table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for (host, reason), times in reasons.most_common():
        table.add_row(str(times), *([host] if several else []), Text(reason))
    console.print(Text(f"{title}, by reason", style="bold"))
    console.print(table)
    console.print()


def _counts(results: Sequence[HostResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column("host", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    for name in ("passed", "failed", "errors", "skipped", "not run", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            f"{result.label.kind}{' (emulated)' if result.label.emulated else ''}",
            result.label.kernel,
            *(_number(result.count(outcome), STYLES[outcome]) for outcome in OUTCOMES),
            _number(result.not_run, _NOT_RUN),
            f"{result.seconds:.1f} s",
        )
    return table


def _number(count: int, style: str) -> Text:
    return Text(str(count), style=style if count else "dim")
