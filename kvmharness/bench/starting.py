# SPDX-License-Identifier: MIT
"""What has no C beside it: the processor's time until a script can begin."""

from __future__ import annotations

import resource
import sys

from kvmharness import process
from kvmharness.errors import HarnessError
from kvmharness.record import Record

_SECONDS = 300  # an emulated host takes its time


class Start(Record, frozen=True):
    """A program of Python's, and the milliseconds of processor time it may take.

    `beyond` says that those of the interpreter alone are taken off.
    """

    name: str
    text: str
    goal_ms: float
    argv: list[str]
    beyond: bool


STARTS = (
    Start(
        "import",
        "from kvmharness import Kvm, VmBuilder; beyond the interpreter",
        60,
        ["-c", "from kvmharness import Kvm, VmBuilder"],
        True,
    ),
    Start(
        "probe",
        "kvmharness probe --json, all of it",
        200,
        ["-m", "kvmharness", "probe", "--json"],
        False,
    ),
)


def measure(start: Start, rounds: int) -> list[float]:
    """Return the milliseconds of processor time of each of `rounds` times that it was started."""
    base = min(_started(["-c", "pass"]) for _ in range(rounds)) if start.beyond else 0.0
    return [max(_started(start.argv) - base, 0.0) for _ in range(rounds)]


def _started(argv: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = process.run([sys.executable, *argv], timeout=_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000
    if done.returncode:
        raise HarnessError(f"python {' '.join(argv)} failed: {done.stderr.strip()[-200:]}")
    return spent
