# SPDX-License-Identifier: MIT
"""Runs the kvmharness command for tests: as a person would, or with a suite of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: Run the command after changing where the suite is, or what opening /dev/kvm gives.
_CHANGED = """
import os, sys
from pathlib import Path
suite, kvm_errno = sys.argv[1], int(sys.argv[2])
if suite:
    from kvmharness import resources
    resources.suite_dir = lambda: Path(suite)
if kvm_errno:
    real = os.open
    def no_kvm(path, *args, **kwargs):
        if path == "/dev/kvm":
            raise OSError(kvm_errno, os.strerror(kvm_errno), path)
        return real(path, *args, **kwargs)
    os.open = no_kvm
from kvmharness.cli import main
main(sys.argv[3:])
"""


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What stderr says, which has to be one line and nothing else."""
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removesuffix("\n")


def argv(*args: str, suite: Path | None = None, kvm_errno: int = 0) -> list[str]:
    """Return the command line of a run."""
    if suite is None and not kvm_errno:
        return [sys.executable, "-m", "kvmharness", *args]
    return [sys.executable, "-c", _CHANGED, str(suite or ""), str(kvm_errno), *args]


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which nothing of the outer pytest or of a terminal is left."""
    dropped = ("PYTEST", "KVMHARNESS", "COLUMNS", "FORCE_COLOR")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | extra


def kvmharness(
    *args: str, suite: Path | None = None, kvm_errno: int = 0, cwd: Path | None = None, **env: str
) -> Ended:
    """Run the command to its end. `suite` takes the suite's place; `kvm_errno` is /dev/kvm's."""
    done = subprocess.run(
        argv(*args, suite=suite, kvm_errno=kvm_errno),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=environment(**env),
    )
    return Ended(done.returncode, done.stdout, done.stderr)
