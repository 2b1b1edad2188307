# SPDX-License-Identifier: MIT
"""What the stand-in modules of emulated hosts have in common: a /proc file, and waiting on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

Counts = dict[str, int] | None


def read_state(path: Path) -> dict[str, str]:
    """Return a stand-in's state as its key=value lines; empty where there is none: on hardware."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def counts_of(state: dict[str, str], prefix: str) -> dict[str, int]:
    """Return the numbers of the keys that begin with `prefix`, by what follows it."""
    return {
        key.removeprefix(prefix): int(value)
        for key, value in state.items()
        if key.startswith(prefix)
    }


def wait_for(read: Callable[[], Counts], expected: Counts, seconds: float) -> Counts:
    """Wait until `read` gives the `expected` counts, and return what it gives in the end.

    A VM's pages go back when its last reference does, which an RCU grace period may delay.
    """
    deadline = time.monotonic() + seconds
    while (counts := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return counts
