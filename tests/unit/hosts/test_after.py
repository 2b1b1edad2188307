# SPDX-License-Identifier: MIT
"""Commands that run once a command has ended: what they said, here and out of a guest's shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.hosts import after
from kvmharness.hosts.boot_image import command_script
from kvmharness.hosts.native import NativeHost
from kvmharness.report.result import AfterRun

_COMMANDS = ['echo "a b"; echo e >&2; exit 3', "printf '7 3\\nno line break'", "exit 137"]
_CAME_OF_IT = [
    AfterRun(_COMMANDS[0], 3, "a b\ne\n"),
    AfterRun(_COMMANDS[1], 0, "7 3\nno line break"),
    AfterRun(_COMMANDS[2], 137, ""),
]


def test_natively_each_runs_once_the_command_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "made"
    result = NativeHost().run(
        ["sh", "-c", f"sleep 0.3; echo $MORE > {file}; exit 5"],
        timeout=30,
        env={"MORE": "made"},
        after=[f"cat {file}; echo $MORE", *_COMMANDS],
    )
    assert result.status == 5
    assert result.after == [AfterRun(f"cat {file}; echo $MORE", 0, "made\nmade\n"), *_CAME_OF_IT]


def test_natively_one_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(after, "DEADLINE", 0.3)
    (run,) = after.run_here(["sleep 60"], {})
    assert (run.status, run.output) == (124, "still running after 0 s")


def _in_a_guest(tmp_path: Path, script: str) -> tuple[int, bytes]:
    """Run what a guest's shell would, with files of ours for its port and its directory."""
    port = tmp_path / "port"
    port.write_bytes(b"")
    script = script.replace("/run/kvmharness/after", str(tmp_path / "said"))
    script = script.replace(">/dev/vport0p4", f">>{port}")
    done = subprocess.run(["/bin/sh", "-c", script], timeout=30, check=False)
    return done.returncode, port.read_bytes()


def test_in_a_guest_each_runs_once_the_command_has_ended(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    script = command_script(argv, {"MORE": "it's"}, tmp_path, ["echo $MORE; pwd", *_COMMANDS])
    status, said = _in_a_guest(tmp_path, script)
    assert status == 137  # the command's own
    first = AfterRun("echo $MORE; pwd", 0, f"it's\n{tmp_path}\n")
    assert after.parse([first.command, *_COMMANDS], said) == [first, *_CAME_OF_IT]


def test_of_a_guest_that_died_meanwhile_what_came_is_told(tmp_path: Path) -> None:
    _, said = _in_a_guest(tmp_path, command_script(["true"], {}, tmp_path, _COMMANDS))
    assert after.parse(_COMMANDS, said[:3]) == []
    assert after.parse(_COMMANDS, said[:-10]) == [
        _CAME_OF_IT[0],
        AfterRun(_COMMANDS[1], 0, _CAME_OF_IT[1].output[:-4]),
    ]
