# SPDX-License-Identifier: MIT
"""An emulated host whose runs tell which code of the kernel's modules they reached."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from kvmharness.coverage.executed import TELL_SECTIONS, Executed, sections_told
from kvmharness.hosts.host import HostRun, OnOutput

#: What divides what is told of the modules from the command's output.
_END = b"--- modules told ---\n"


class LoggingHost(Protocol):
    """An emulated host."""

    @property
    def facts(self) -> Mapping[str, object]:
        """As Host has it."""

    def run(
        self, argv: Sequence[str], *, on_output: OnOutput, block_log: int, **options: Any
    ) -> HostRun:
        """Run as Host does, and have the code of modules that is run written to `block_log`."""


class WithKernelCoverage:
    """A host that adds what each of its runs reached of the modules to `executed`."""

    def __init__(self, host: LoggingHost, executed: Executed) -> None:
        self._host = host
        self._executed = executed

    @property
    def facts(self) -> Mapping[str, object]:
        """Those of the host."""
        return self._host.facts

    def run(
        self, argv: Sequence[str], *, on_output: OnOutput | None = None, **options: Any
    ) -> HostRun:
        """Run as the host does."""
        told = _Told(on_output)
        script = f'{TELL_SECTIONS}; echo "{_END.decode().strip()}"; exec "$@"'
        log = os.memfd_create("block-log", os.MFD_CLOEXEC)
        try:
            run = self._host.run(
                ["sh", "-c", script, "sh", *argv], on_output=told.take, block_log=log, **options
            )
        finally:
            if told.ended:  # else nothing is known of where the modules were
                self._executed.add(sections_told(told.modules), _contents(log))
            os.close(log)
        return replace(run, stdout=bytes(told.kept["stdout"]), stderr=bytes(told.kept["stderr"]))


class _Told:
    """Takes what is told of the modules out of the output."""

    def __init__(self, on_output: OnOutput | None) -> None:
        self._pass_on = on_output
        self._head = bytearray()
        self.ended = False
        self.modules = ""
        #: The output, where nobody else takes it.
        self.kept = {"stdout": bytearray(), "stderr": bytearray()}

    def take(self, stream: str, data: bytes) -> None:
        if stream == "stdout" and not self.ended:
            self._head += data
            if _END not in self._head:
                return
            head, _, data = bytes(self._head).partition(_END)
            self.modules, self.ended = head.decode("ascii", "replace"), True
        if not data:
            return
        if self._pass_on is None:
            self.kept[stream] += data
        else:
            self._pass_on(stream, data)


def _contents(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
