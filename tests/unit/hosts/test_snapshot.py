# SPDX-License-Identifier: MIT
"""Which snapshot is whose, how one is made, and how many are kept; no QEMU takes part."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness.hosts import snapshot
from kvmharness.hosts.monitor import Monitor
from kvmharness.hosts.qemu import Qemu
from kvmharness.hosts.virtual_machine import Share, VirtualMachine

from .test_monitor import FakeQemu


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine(tmp_path: Path) -> VirtualMachine:
    (tmp_path / "vmlinux").write_bytes(b"kernel")
    root = Share("root", Path("/"), Path("/"), readonly=True)
    return VirtualMachine(
        qemu=Qemu(("qemu",), "10.0.2"),
        kernel=tmp_path / "vmlinux",
        append="quiet",
        cpu="max",
        smp=2,
        memory=512,
        shares=(root,),
    )


def test_whatever_goes_in_makes_another(machine: VirtualMachine) -> None:
    files = {snapshot.of(machine, b"initramfs").file, snapshot.of(machine, b"other").file}
    for change in (
        {"append": "quiet tsc_early_khz=1"},
        {"cpu": "EPYC"},
        {"smp": 1},
        {"memory": 1024},
        {"qemu": Qemu(("qemu",), "10.0.3")},
        {"shares": (*machine.shares, Share("share0", Path("/a"), Path("/a")))},
    ):
        files.add(snapshot.of(replace(machine, **change), b"initramfs").file)
    machine.kernel.write_bytes(b"another")
    files.add(snapshot.of(machine, b"initramfs").file)
    assert len(files) == 9
    assert snapshot.of(machine, b"initramfs").file in files


def test_where_a_share_is_makes_no_other(machine: VirtualMachine) -> None:
    """Each run of the suite has a directory of its own."""
    one, two = (
        replace(machine, shares=(*machine.shares, Share("share0", Path(name), Path(name))))
        for name in ("/tmp/a", "/tmp/b")
    )
    assert snapshot.of(one, b"") == snapshot.of(two, b"")


class _Writes(FakeQemu):
    """A QEMU that writes the file it is told to."""

    def __init__(self, connection: socket.socket, answers: dict[str, Any]) -> None:
        super().__init__(
            connection, {"query-migrate": {"return": {"status": "completed"}}} | answers
        )

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["execute"] == "migrate":
            Path(command["arguments"]["uri"].removeprefix("file:")).write_bytes(b"saved")
        return super().answer(command)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _made(
    wanted: snapshot.Snapshot, sockets: tuple[socket.socket, socket.socket], answers: dict[str, Any]
) -> list[str]:
    ours, theirs = sockets
    qemu = _Writes(theirs, answers)
    wanted.make(Monitor(ours))
    ours.shutdown(socket.SHUT_RDWR)
    qemu.end()
    return [each["execute"] for each in qemu.asked]


def test_a_snapshot_is_of_a_guest_that_runs_which_goes_on_then(
    machine: VirtualMachine, sockets: tuple[socket.socket, socket.socket]
) -> None:
    wanted = snapshot.of(machine, b"")
    with wanted.opened() as none:
        assert none is None
    asked = _made(wanted, sockets, {})
    assert "stop" not in asked  # it would be saved as one that stands
    assert asked[-3:] == ["migrate", "query-migrate", "cont"]
    with wanted.opened() as fd:
        assert fd is not None
        assert os.read(fd, 10) == b"saved"
    wanted.drop()
    wanted.drop()
    assert not wanted.file.exists()


@pytest.mark.parametrize(
    "answers",
    [
        {"migrate": {"error": {"desc": "9p share is mounted"}}},
        {"query-migrate": {"return": {"status": "failed", "error-desc": "9p share is mounted"}}},
    ],
)
def test_a_snapshot_that_can_not_be_made_is_told_and_the_guest_goes_on(
    machine: VirtualMachine,
    sockets: tuple[socket.socket, socket.socket],
    answers: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = snapshot.of(machine, b"")
    assert _made(wanted, sockets, answers)[-1] == "cont"
    assert not wanted.file.exists()
    assert (
        "no snapshot of the emulated host can be made: QEMU says: 9p share"
        in capsys.readouterr().err
    )


def test_those_used_last_are_kept(machine: VirtualMachine) -> None:
    made = []
    for number in range(snapshot.KEPT + 2):
        wanted = snapshot.of(machine, b"%d" % number)
        wanted.file.write_bytes(b"saved")
        os.utime(wanted.file, (number, number))
        made.append(wanted)
    with made[0].opened() as fd:  # the oldest is used again
        assert fd is not None
    snapshot._forget_old(made[0].file.parent)
    there = [wanted.file.exists() for wanted in made]
    assert there == [True, False, False] + [True] * (snapshot.KEPT - 1)
