# SPDX-License-Identifier: MIT
"""The native host: this machine and the kernel it runs."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from kvmharness import process
from kvmharness.host_kinds import NATIVE
from kvmharness.hosts.after import run_here
from kvmharness.hosts.host import HostRun, OnOutput, Silence, Verdict, never
from kvmharness.hosts.limits import Limits
from kvmharness.kernel_log.log import KernelLog
from kvmharness.labels import HOST_VARIABLE


class NativeHost:
    """Runs commands as child processes on this machine."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Kind, kernel release, and that nothing is emulated."""
        return {"kind": NATIVE, "emulated": False, "kernel": os.uname().release}

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        writable: Sequence[Path] = (),
        on_output: OnOutput | None = None,
        silence: Silence = never,
        after: Sequence[str] = (),
    ) -> HostRun:
        """Run `argv` with the caller's environment and `env`; end it after `timeout` seconds.

        Or when it has written nothing for longer than `silence` lets it.

        `writable` needs nothing here: the command sees the caller's own files.
        """
        began = time.monotonic()
        log = KernelLog.open()
        collected: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

        def take(stream: str, data: bytes) -> None:
            if on_output is not None:
                on_output(stream, data)
            else:
                collected[stream] += data

        try:
            with process.child(
                argv,
                cwd=cwd,
                env={**os.environ, **(env or {}), HOST_VARIABLE: NATIVE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as command:
                assert command.stdout is not None
                assert command.stderr is not None
                streams = {"stdout": command.stdout, "stderr": command.stderr}
                verdict, detail = _copy(streams, take, command, Limits(timeout, silence))
                status = command.wait() if verdict is Verdict.FINISHED else None
        except FileNotFoundError as error:
            return HostRun(Verdict.BOOT_FAILED, None, time.monotonic() - began, str(error))
        finally:
            # Also of a command that was killed by an oops, and can't say it any more.
            lines = None if log is None else log.new_lines()
            if log is not None:
                log.close()
        if status is not None and status < 0:
            status = 128 - status  # as a shell has it
        return HostRun(
            verdict,
            status,
            time.monotonic() - began,
            detail,
            bytes(collected["stdout"]),
            bytes(collected["stderr"]),
            kernel_log=lines,
            after=run_here(after, env or {}),
        )


def _copy(
    streams: Mapping[str, IO[bytes]],
    take: OnOutput,
    command: subprocess.Popen[bytes],
    limits: Limits,
) -> tuple[Verdict, str]:
    """Pass output on until the command has ended, or is to be; say which, and why."""
    limits.begin()
    with selectors.DefaultSelector() as waiting:
        for name, stream in streams.items():
            os.set_blocking(stream.fileno(), False)
            waiting.register(stream, selectors.EVENT_READ, name)
        ended = False
        while waiting.get_map():
            # A process left behind by the command may hold the pipes: poll for the command's end.
            events = waiting.select(0.0 if ended else 0.1)
            for key, _ in events:
                data = b""
                with contextlib.suppress(BlockingIOError):
                    data = os.read(key.fd, 65536)
                if data:
                    limits.heard()
                    take(key.data, data)
                else:
                    waiting.unregister(key.fileobj)
            if ended and not events:
                return Verdict.FINISHED, ""
            if limits.left() <= 0 and not events:
                return (Verdict.FINISHED, "") if ended else limits.passed()
            ended = command.poll() is not None
    while command.poll() is None:
        if limits.left() <= 0:
            return limits.passed()
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(min(limits.left(), 1.0))
    return Verdict.FINISHED, ""
