# SPDX-License-Identifier: MIT
"""Runs binding_fuzz.py in a process of its own, and says by which call that ended, if it did."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("binding_fuzz.py")


@dataclass(frozen=True)
class Fuzzed:
    """How many calls were made, how many returned, and which methods were never called."""

    calls: int
    returned: int
    not_called: str


def survives(kernel: str, *, seconds: float, log: Path, first_seed: int = 0) -> Fuzzed:
    """Fuzz the binding on `kernel`, ``none`` or ``kvm``.

    Fails the test, with the last call, if the interpreter ended otherwise than by itself.
    """
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM, kernel, str(seconds), str(first_seed), log],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    if done.returncode:
        last = log.read_text(errors="replace").strip("\0 ") if log.exists() else "no call"
        pytest.fail(f"status {done.returncode} in {last}\n{done.stdout}{done.stderr}")
    said = re.match(r"(\d+) calls, (\d+) returned, not called: \[(.*)\]", done.stdout)
    assert said, done.stdout
    return Fuzzed(int(said[1]), int(said[2]), said[3])
