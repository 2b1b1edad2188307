# SPDX-License-Identifier: MIT
"""What is said to QEMU's monitor, and how its answers are read, with a socket for a QEMU."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness.hosts import vmcore
from kvmharness.hosts.monitor import Monitor, MonitorError

_EVENT = b'{"event": "STOP", "timestamp": {}}\r\n'


class FakeQemu:
    """Answers each command with an event and what `answers` has for it, in pieces."""

    def __init__(self, connection: socket.socket, answers: dict[str, dict[str, Any]]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._connection = connection
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._connection.sendall(b'{"QMP": {"version": {}}}\r\n')
        while data := self._connection.recv(1 << 16):
            command = json.loads(data)
            self.asked.append(command)
            text = _EVENT + json.dumps(self.answer(command)).encode() + b"\r\n"
            for at in range(0, len(text), 7):
                self._connection.sendall(text[at : at + 7])

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        return self._answers.get(command["execute"], {"return": {}})

    def end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_events_are_passed_over(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    qemu = FakeQemu(theirs, {"query-status": {"return": {"status": "running"}}})
    monitor = Monitor(ours)
    for _ in range(2):  # greeted once
        assert monitor.do("query-status", timeout=5) == {"status": "running"}
    ours.shutdown(socket.SHUT_RDWR)
    qemu.end()
    assert [each["execute"] for each in qemu.asked] == ["qmp_capabilities", *["query-status"] * 2]


def test_a_qemu_that_says_nothing_is_not_waited_for(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(MonitorError, match="does not answer"):
        Monitor(sockets[0]).do("stop", timeout=0.2)
    sockets[1].close()
    with pytest.raises(MonitorError, match="closed"):
        Monitor(sockets[0]).do("stop", timeout=5)


def test_a_guest_s_memory_is_dumped_while_it_stands_still(
    sockets: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = sockets
    qemu = FakeQemu(theirs, {})
    core = vmcore.write(Monitor(ours), tmp_path, "vmcore", (0x1000, 0x400))
    ours.shutdown(socket.SHUT_RDWR)
    qemu.end()
    assert core is not None
    assert core.parent.parent == tmp_path
    _, stop, dump, info = qemu.asked
    assert stop["execute"] == "stop"
    assert dump["arguments"]["protocol"] == f"file:{core}"
    assert info["arguments"] == {"val": 0x1000, "size": 0x400, "filename": f"{core}.vmcoreinfo"}


def test_memory_that_can_not_be_kept_is_told(
    sockets: tuple[socket.socket, socket.socket], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = sockets
    refused = {"error": {"class": "GenericError", "desc": "No space left"}}
    qemu = FakeQemu(theirs, {"dump-guest-memory": refused})
    assert vmcore.write(Monitor(ours), tmp_path, "vmcore", None) is None
    ours.shutdown(socket.SHUT_RDWR)
    qemu.end()
    assert "can't be kept: QEMU says: No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
