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
def step(text: str) -> Iterator[Report]:
    """Announce a long step and give a function that reports the part done."""
    if _muted:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _bar(text) as report:
            yield report
    else:
        note(text + " ...")
        began = time.monotonic()
        yield lambda done: None
        note(f"{text}: done in {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(text, total=None)

        def report(done: float) -> None:
            bars.update(task, total=1.0, completed=min(done, 1.0))

        yield report
        bars.update(task, total=1.0, completed=1.0)
