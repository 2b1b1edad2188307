# SPDX-License-Identifier: MIT
"""Progress of long steps on stderr: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

#: Takes the part done, 0 to 1.
Report = Callable[[float], None]

_muted = False
#: Seconds.
_MINUTE = 60.0


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Show nothing inside the block: for callers whose stderr is read by a program."""
    global _muted
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


def note(text: str) -> None:
    """Say one line on stderr."""
    if not _muted:
        print(f"kvmharness: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str, *, timed: bool = False) -> Iterator[Report]:
    """Announce a long step and give a function that reports the part done.

    `timed`: it takes minutes, and says how many are left, in a log once a minute.
    """
    if _muted:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _bar(text, timed) as report:
            yield report
    else:
        note(text + " ...")
        began = time.monotonic()
        yield _Minutes(text, began).report if timed else lambda done: None
        note(f"{text}: done in {time.monotonic() - began:.1f} s")


class _Minutes:
    """Says in a log, once a minute, how far a step is and how many minutes are left.

    The pace is this step's own: what was done before it began is not counted.
    """

    def __init__(self, text: str, began: float) -> None:
        self._text = text
        self._began = self._said = began
        self._first: float | None = None

    def report(self, done: float) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._said < _MINUTE or done <= self._first:
            return
        self._said = now
        left = (now - self._began) * (1 - done) / (done - self._first)
        note(f"{self._text}: {done:.0%}, about {max(round(left / _MINUTE), 1)} min left")


@contextlib.contextmanager
def _bar(text: str, timed: bool) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    shown = TimeRemainingColumn() if timed else TimeElapsedColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), shown)
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(text, total=None)

        def report(done: float) -> None:
            bars.update(task, total=1.0, completed=min(done, 1.0))

        yield report
        bars.update(task, total=1.0, completed=1.0)
