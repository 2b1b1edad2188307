# SPDX-License-Identifier: MIT
"""What a failed run leaves: a command that works when it is pasted, of the last few runs."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness.hosts import again
from kvmharness.hosts.host import Again
from kvmharness.hosts.qemu import Qemu
from kvmharness.hosts.virtual_machine import Share, VirtualMachine

#: Plays QEMU: shows its environment, its arguments, and what is in the initramfs.
_PROGRAM = """#!/bin/sh
echo "MODULES=$QEMU_MODULE_DIR"
for word; do
    printf '<%s>\\n' "$word"
    case $before in -initrd) cat "$word";; esac
    before=$word
done
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a cache"
    monkeypatch.setenv("KVMHARNESS_CACHE", str(root))
    return root


@pytest.fixture
def machine(tmp_path: Path) -> VirtualMachine:
    program = tmp_path / "qemu"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    return VirtualMachine(
        qemu=Qemu((str(program), "-L", "it's data"), "10", {"QEMU_MODULE_DIR": "/a b"}),
        kernel=tmp_path / "vmlinux",
        append="quiet panic=-1 more=$HOME",
        cpu="max,la57=off",
        smp=2,
        memory=512,
        shares=(Share("root", Path("/"), Path("/"), readonly=True),),
    )


def _kept(
    machine: VirtualMachine, initramfs: bytes, console: str, *, interactive: bool = False
) -> Again:
    kept = again.keep(machine, initramfs, b"12\nto do", console, interactive=interactive)
    assert kept is not None
    return kept


def _pasted(command: str, directory: Path) -> list[str]:
    done = subprocess.run(
        ["sh", "-c", command], cwd=directory, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.splitlines()


def test_the_command_starts_the_same_machine(
    machine: VirtualMachine, cache: Path, tmp_path: Path
) -> None:
    kept_by = _kept(machine, b"archive\n", "said")
    (kept,) = (cache / "failed").iterdir()
    shown = _pasted(kept_by.command, tmp_path)
    assert shown[0] == "MODULES=/a b"
    assert shown[1:3] == ["<-L>", "<it's data>"]
    assert "<quiet panic=-1 more=$HOME>" in shown
    assert shown[shown.index("<-initrd>") + 1 :][:2] == [f"<{kept}/initramfs>", "archive"]
    assert not [word for word in shown if "/dev/fd/" in word]
    assert (kept / "console").read_text() == "said"
    assert kept_by.file.parent == kept
    assert _pasted(shlex.quote(str(kept_by.file)), tmp_path) == shown
    more = _pasted(f"{shlex.quote(str(kept_by.file))} -s -S", tmp_path)
    assert more == [*shown, "<-s>", "<-S>"]


@pytest.mark.usefixtures("cache")
def test_the_command_lets_init_go_on(machine: VirtualMachine) -> None:
    kept = _kept(machine, b"", "")
    assert (kept.file.parent / "orders").read_bytes() == b"12\nto dogo\n"
    assert f"input-path={kept.file.parent}/orders,id=orders" in kept.command


def test_a_shared_directory_is_there_when_the_run_s_own_has_gone(
    machine: VirtualMachine, cache: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "given").write_text("contents")
    machine = replace(machine, shares=(*machine.shares, Share("share0", own, own)))
    command = _kept(machine, b"", "").command
    (own / "given").unlink()
    own.rmdir()
    (kept,) = (cache / "failed").iterdir()
    assert (kept / "share0" / "given").read_text() == "contents"
    # A comma would be doubled; the cache's path has none.
    option = f"<local,path={kept}/share0,mount_tag=share0,security_model=none,multidevs=remap>"
    assert option in _pasted(command, tmp_path)


def test_a_large_shared_directory_is_not_copied(
    machine: VirtualMachine, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "_LARGEST_SHARE", 10)
    own = tmp_path / "own"
    own.mkdir()
    (own / "given").write_text("more than ten bytes")
    machine = replace(machine, shares=(*machine.shares, Share("share0", own, own)))
    assert f"path={own},mount_tag=share0" in _kept(machine, b"", "").command


@pytest.mark.usefixtures("cache")
def test_a_shell_gets_the_terminal_again(machine: VirtualMachine) -> None:
    assert "stdio,signal=off,id=console" in _kept(machine, b"", "", interactive=True).command


def test_the_newest_runs_are_kept(machine: VirtualMachine, cache: Path) -> None:
    commands = [_kept(machine, b"%d" % n, "").command for n in range(again.KEPT + 3)]
    kept = {(path / "initramfs").read_bytes() for path in (cache / "failed").iterdir()}
    assert kept == {b"%d" % n for n in range(3, again.KEPT + 3)}
    assert len(set(commands)) == len(commands)


def test_a_cache_that_takes_nothing_is_told_and_the_failure_still_is(
    machine: VirtualMachine, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / "failed").write_text("in the way")
    assert again.keep(machine, b"", b"", "", interactive=False) is None
    assert "can't be kept to boot it again" in capsys.readouterr().err
