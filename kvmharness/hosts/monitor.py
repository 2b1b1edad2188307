# SPDX-License-Identifier: MIT
"""QEMU's monitor (QMP, docs/interop/qmp-spec.rst in its source): what of it is needed here."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from kvmharness.errors import HarnessError


class MonitorError(HarnessError):
    """QEMU refused a command, or did not answer."""


class Monitor:
    """A connection to a QEMU that is running: `connection` is the other end of its monitor.

    QEMU greets once, so a connection has one Monitor; the greeting is read with the first command.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._text = b""
        self._greeted = False

    def do(self, command: str, *, timeout: float, **arguments: Any) -> Any:
        """Have QEMU do `command` within `timeout` seconds, and return what it answers."""
        if not self._greeted:
            self._answer(time.monotonic() + timeout, "QMP")
            self._greeted = True
            self.do("qmp_capabilities", timeout=timeout)
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        return self._answer(time.monotonic() + timeout, "return")

    def _answer(self, give_up: float, member: str) -> Any:
        """Return the member of the next message that has it; events in between are passed over."""
        while True:
            line, newline, rest = self._text.partition(b"\n")
            if newline:
                self._text = rest
                message = json.loads(line)
                if "error" in message:
                    raise MonitorError(f"QEMU says: {message['error']['desc']}")
                if member in message:
                    return message[member]
                continue
            self._connection.settimeout(max(give_up - time.monotonic(), 0.001))
            try:
                data = self._connection.recv(1 << 16)
            except OSError as error:
                raise MonitorError(f"QEMU's monitor does not answer: {error}") from error
            if not data:
                raise MonitorError("QEMU closed its monitor")
            self._text += data
