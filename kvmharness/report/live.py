# SPDX-License-Identifier: MIT
"""What a run is doing now: one live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from kvmharness.labels import HostLabel
from kvmharness.report.records import Record
from kvmharness.report.terminal import STYLES

#: Seconds between two plain lines.
_EVERY = 10.0


class RunProgress:
    """Follows the events of one host's run."""

    def __init__(self, console: Console, label: HostLabel, verbose: bool) -> None:
        self._console = console
        self._label = label
        self._verbose = verbose
        self._counts: Counter[str] = Counter()
        self._total: int | None = None
        self._said = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[counts]}"),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[current]}"),
                console=console,
                transient=True,
            )
            description = f"{label.kind} {label.kernel}"
            self._task = self._live.add_task(description, total=None, counts="", current="starting")

    @property
    def done(self) -> int:
        """How many tests have a record."""
        return self._counts.total()

    @property
    def total(self) -> int | None:
        """How many tests are planned; None until that is known."""
        return self._total

    def __call__(self, event: Record | dict[str, Any]) -> None:
        """Take one record or event."""
        current = ""
        if isinstance(event, Record):
            self._counts[event.outcome] += 1
            if self._verbose:
                self._tell(event)
        elif event["event"] == "plan" and self._total is None:
            self._total = len(event["tests"])
            if self._live is None:
                tests = "1 test" if self._total == 1 else f"{self._total} tests"
                self._console.print(f"{tests} on the {self._label.words}")
            for note in event.get("notes", ()):
                self._console.print(note)
        elif event["event"] == "again":
            self._counts.subtract(record.outcome for record in event["dropped"])
            self._console.print(
                f"the host was refused, {event['reason']}: what ran there runs again"
            )
        elif event["event"] == "start":
            current = event["id"]
        if self._live is not None:
            self._live.update(
                self._task,
                total=self._total,
                completed=self.done,
                counts=self._summary(),
                current=current,
            )
        elif not self._verbose and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self._console.print(f"{self._label.kind}: {self.done} of {self._total}{self._bad()}")

    def _tell(self, record: Record) -> None:
        line = Text(f"{record.outcome:<8}", style=STYLES[record.outcome])
        line.append(f"{record.id}  ", style="default")
        line.append(record.reason or f"{record.seconds * 1000:.0f} ms", style="dim")
        self._console.print(line, soft_wrap=True)

    def _summary(self) -> str:
        parts = [
            f"[{style}]{self._counts[outcome]} {outcome}[/]"
            for outcome, style in STYLES.items()
            if self._counts[outcome] and outcome != "passed"
        ]
        return " ".join(parts)

    def _bad(self) -> str:
        failed, errors = self._counts["failed"], self._counts["error"]
        text = f", {failed} failed" if failed else ""
        return text + (f", {errors} error{'s' * (errors > 1)}" if errors else "")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
