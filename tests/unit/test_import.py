# SPDX-License-Identifier: MIT
"""What importing the package brings along: a script that makes a VM waits for nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Each takes milliseconds, twenty times as many on an emulated host.
SLOW = {
    "click",
    "dataclasses",
    "hashlib",
    "inspect",
    "pathlib",
    "pytest",
    "rich",
    "subprocess",
    "tempfile",
    "tomllib",
}


@pytest.mark.parametrize(
    "statement", ["import kvmharness", "from kvmharness import Kvm, SourceBuffer, VmBuilder"]
)
def test_an_import_brings_along_nothing_slow(statement: str) -> None:
    program = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    )
    # Isolated, and without site: what an installation imports by itself would hide ours.
    path = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path[:] = {path!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    brought = set(done.stdout.split())
    assert "kvmharness" in brought
    assert not brought & SLOW
