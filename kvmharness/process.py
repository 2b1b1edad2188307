# SPDX-License-Identifier: MIT
"""Child processes that can't outlive us: the kernel ends them when their parent is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
# Resolved before any fork: between fork and exec only async-signal-safe work is allowed.
_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child runs before exec, so that SIGKILL reaches it when `parent` ends."""

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before prctl: nothing will signal us
            os._exit(127)

    return prepare


@contextlib.contextmanager
def child(
    argv: Sequence[str], *, foreground: bool = False, **popen: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start `argv` in a process group of its own; leaving the block ends it, however it is left.

    The kernel kills the child when the thread that started it ends, also on ``kill -9``:
    PR_SET_PDEATHSIG works per thread, so start and wait in the same one. A group of its own: a
    Ctrl-C reaches us only, and we decide how the child ends. `foreground`: the child uses our
    terminal, so it stays in our group.
    """
    process = subprocess.Popen(
        list(argv),
        process_group=None if foreground else 0,
        preexec_fn=_die_with(os.getpid()),
        **popen,
    )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any], grace: float = 2.0) -> None:
    """End `process` and its process group: SIGTERM, and after `grace` seconds SIGKILL."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _signal(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def run(argv: Sequence[str], *, timeout: float, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end within `timeout` seconds and return its status and output as text.

    Raises FileNotFoundError when the program is missing, subprocess.TimeoutExpired after `timeout`.
    """
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "errors": "replace",
    }
    options.update(popen)
    with child(argv, **options) as process:
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)
