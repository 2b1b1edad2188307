# SPDX-License-Identifier: MIT
"""Commands that run where a command ran, once it has ended: what they said, and how they ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence

from kvmharness import process
from kvmharness.report.result import AfterRun

#: Seconds for each.
DEADLINE = 60
#: The status of one that had no time left, as timeout(1) has it.
_TOO_LONG = 124


def run_here(commands: Sequence[str], environment: Mapping[str, str]) -> list[AfterRun]:
    """Run each with this machine's shell."""
    return [_run(command, environment) for command in commands]


def _run(command: str, environment: Mapping[str, str]) -> AfterRun:
    began = time.monotonic()
    try:
        done = process.run(
            ["/bin/sh", "-c", command],
            timeout=DEADLINE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        said = f"still running after {time.monotonic() - began:.0f} s"
        return AfterRun(command, _TOO_LONG, said)
    status = done.returncode
    return AfterRun(command, 128 - status if status < 0 else status, done.stdout)


def script(commands: Sequence[str], port: str) -> str:
    """Return shell that runs each in a guest and writes to `port`: a line with its status and the
    bytes of its output, then those.
    """
    said = "/run/kvmharness/after"
    lines = [
        "after() {",
        f'timeout {DEADLINE} /bin/sh -c "$1" </dev/null >{said} 2>&1',
        f'{{ echo "$? $(wc -c <{said})"; cat {said}; }} >{port}',
        "}",
    ]
    lines += [f"after {shlex.quote(command)}" for command in commands]
    return "\n".join(lines) + "\n"


def parse(commands: Sequence[str], said: bytes) -> list[AfterRun]:
    """Return what came of those that ended, from what script() wrote; of the last maybe a part."""
    runs = []
    for command in commands:
        line, newline, said = said.partition(b"\n")
        if not newline:
            break
        status, size = map(int, line.split())
        output, said = said[:size], said[size:]
        runs.append(AfterRun(command, status, output.decode("utf-8", "replace")))
    return runs
