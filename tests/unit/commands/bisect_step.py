# SPDX-License-Identifier: MIT
"""kvmharness, with hosts whose kernel is a shell script: what a step of a bisection runs in a test.

``sh KERNEL boot`` says by its status whether it boots, and ``sh KERNEL panic`` whether it panics
under the command. The command itself runs here, with $KERNEL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvmharness.cli import main
from kvmharness.hosts import emulated
from kvmharness.hosts.host import HostRun, Verdict


class ScriptHost:
    """What EmulatedHost is to the command."""

    def __init__(self, kernel: str) -> None:
        self._image = Path(kernel).resolve() / "arch/x86/boot/bzImage"

    @classmethod
    def prepare(cls, kind: str, kernel: str) -> ScriptHost:
        return cls(kernel)

    def with_modules(self, modules: Sequence[str]) -> ScriptHost:
        return self

    def with_module_options(self, options: Sequence[str]) -> ScriptHost:
        return self

    def run(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str],
        on_output: Callable[[str, bytes], None],
        **options: Any,
    ) -> HostRun:
        if "BREAK_THE_HARNESS" in os.environ:
            raise ZeroDivisionError
        if self._does("boot") != 0:
            return HostRun(Verdict.BOOT_FAILED, None, 1.0, "not booted within 120 s")
        environment = {**os.environ, **env, "KERNEL": str(self._image)}
        done = subprocess.run(argv, env=environment, capture_output=True, check=False, timeout=60)
        on_output("stdout", done.stdout)
        on_output("stderr", done.stderr)
        if self._does("panic") == 0:
            return HostRun(Verdict.PANIC, None, 1.0, "the guest's kernel panicked: because")
        return HostRun(Verdict.FINISHED, done.returncode, 1.0)

    def _does(self, what: str) -> int:
        return subprocess.run(["sh", self._image, what], check=False, timeout=60).returncode


if __name__ == "__main__":
    emulated.EmulatedHost = ScriptHost  # type: ignore[assignment, misc]
    main(sys.argv[1:])
