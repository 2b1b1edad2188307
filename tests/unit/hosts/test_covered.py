# SPDX-License-Identifier: MIT
"""A host whose runs are measured: where the modules were comes out of the command's output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kvmharness.coverage.executed import Executed
from kvmharness.hosts import covered
from kvmharness.hosts.covered import WithKernelCoverage
from kvmharness.hosts.host import HostRun, OnOutput, Verdict

TEXT = ("kvm", ".text")
TOLD = "echo /sys/module/kvm/sections/.text 0x1000"


class _Logging:
    """Runs commands here, byte by byte, and logs a block at 0x1004."""

    facts: Mapping[str, object] = {"kind": "emulated-snp"}

    def run(
        self, argv: Sequence[str], *, on_output: OnOutput, block_log: int, **options: Any
    ) -> HostRun:
        os.write(block_log, b"0x1004:  90 90  nop\n")
        done = subprocess.run(argv, capture_output=True, timeout=30)
        for stream, data in (("stderr", done.stderr), ("stdout", done.stdout)):
            for byte in data:
                on_output(stream, bytes([byte]))
        return HostRun(Verdict.FINISHED, done.returncode, 0.1)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    monkeypatch.setattr(covered, "TELL_SECTIONS", TOLD)
    return Executed({TEXT: 16})


def test_the_command_s_output_is_its_own(executed: Executed) -> None:
    host = WithKernelCoverage(_Logging(), executed)
    run = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=5)
    assert (run.status, run.stdout, run.stderr) == (3, b"out\n", b"err\n")


def test_who_reads_along_gets_it_and_no_more(executed: Executed) -> None:
    heard: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def take(stream: str, data: bytes) -> None:
        heard[stream] += data

    run = WithKernelCoverage(_Logging(), executed).run(["echo", "out"], on_output=take)
    assert heard == {"stdout": b"out\n", "stderr": b""}
    assert run.stdout == b""


def test_what_was_run_is_added_boot_after_boot(executed: Executed) -> None:
    host = WithKernelCoverage(_Logging(), executed)
    for _ in range(2):
        host.run(["true"])
    assert executed.boots == 2
    assert [at for at in range(16) if executed.ran(TEXT, at)] == [4, 5]


def test_a_guest_that_told_nothing_of_its_modules_adds_nothing(
    executed: Executed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covered, "TELL_SECTIONS", "exit 1")
    WithKernelCoverage(_Logging(), executed).run(["true"])
    assert executed.boots == 0


def test_no_file_is_left_open(executed: Executed) -> None:
    host = WithKernelCoverage(_Logging(), executed)
    before = os.listdir("/proc/self/fd")
    host.run(["true"])
    assert os.listdir("/proc/self/fd") == before
