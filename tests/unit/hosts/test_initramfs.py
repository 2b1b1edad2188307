# SPDX-License-Identifier: MIT
"""The cpio writer, checked by a reader of its own, and what an emulated host's archive holds."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from kvmharness.errors import HarnessError
from kvmharness.hosts import emulated, qemu
from kvmharness.hosts.initramfs import Initramfs
from kvmharness.kernels import kernels

from ..kernels.elf_modules import kernel_module


def _read(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read a newc archive: name to mode, contents and device."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found[name] = (mode, archive[at : at + size], device)
        at += (size + 3) // 4 * 4


def test_files_folders_links_and_devices_come_out_as_they_went_in() -> None:
    archive = Initramfs()
    archive.file("/init", b"#!/bin/sh\n", 0o755)
    archive.link("bin/sh", "busybox")
    archive.folder("proc")
    archive.character_device("dev/console", 5, 1)
    found = _read(archive.to_bytes())
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox", (0, 0))
    assert found["proc"] == (stat.S_IFDIR | 0o755, b"", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    names = list(found)
    assert names.index("bin") < names.index("bin/sh")  # the kernel makes no parents


@pytest.mark.parametrize("length", range(1, 9))
def test_every_length_is_padded(length: int) -> None:
    archive = Initramfs()
    archive.file("f" * length, b"x" * length)
    assert _read(archive.to_bytes())["f" * length][1] == b"x" * length


@pytest.fixture
def host(tmp_path: Path) -> emulated.EmulatedHost:
    """A host whose kernel is made up: nothing of it can boot."""
    modules = tmp_path / "modules"
    modules.mkdir()
    depends = {"kvm": "irqbypass", "kvm-amd": "kvm,ccp", "9p": "9pnet", "9pnet-virtio": "9pnet"}
    for name in ("irqbypass", "kvm", "ccp", "kvm-amd", "9pnet", "9p", "9pnet-virtio", "overlay"):
        modinfo = f"vermagic=1\0depends={depends.get(name, '')}\0".encode()
        (modules / f"{name}.ko").write_bytes(kernel_module(modinfo=modinfo))
    (tmp_path / "busybox").write_bytes(b"busybox")
    (tmp_path / "standin.ko").write_bytes(b"standin")
    return emulated.EmulatedHost(
        kind=emulated.KINDS["emulated-snp"],
        kernel=kernels.Kernel("7.3.4", tmp_path / "vmlinux", modules, "nowhere"),
        machine=qemu.Qemu(("false",), "0"),
        built={"snp_standin": tmp_path / "standin.ko"},
        busybox=tmp_path / "busybox",
        facts={"kind": "emulated-snp"},
    )


def test_modules_are_loaded_in_an_order_that_serves_all(host: emulated.EmulatedHost) -> None:
    archive = host._initramfs([], "true\n", {"snp_standin": "smt=0"}, interactive=False)
    found = _read(archive)
    plan = found["plan"][1].decode()
    listed = plan.split("'")[1].splitlines()
    assert listed == [
        "irqbypass.ko",
        "kvm.ko",
        "ccp.ko",
        "snp_standin.ko smt=0",
        "kvm-amd.ko",
        "9pnet.ko",
        "9p.ko",
        "9pnet-virtio.ko",
        "overlay.ko",
    ]
    assert found["modules/snp_standin.ko"][1] == b"standin"
    assert found["command"][1] == b"true\n"
    assert stat.S_IMODE(found["init"][0]) == 0o755


def test_every_program_of_init_is_there(host: emulated.EmulatedHost) -> None:
    """Whatever init calls is a shell builtin, a function of its own or an applet that is linked."""
    found = _read(host._initramfs([], "", {}, interactive=False))
    words = {
        line.split()[0]
        for line in found["init"][1].decode().splitlines()
        if line[:1].isalpha() or line.startswith("\t")
        if line.split() and line.split()[0].isalpha()
    }
    shell = {"exec", "read", "echo", "until", "do", "done", "while", "if", "then", "else", "fi"}
    shell |= {"wait", "break", "continue", "say", "leave", "fail"}
    unknown = {w for w in words - shell if f"bin/{w}" not in found and not w.isupper()}
    assert unknown <= {"n", "status", "out", "err"}  # assignments


def test_the_command_survives_quoting(tmp_path: Path) -> None:
    tricky = ["printf", "%s|", "a b", "'", '"$HOME"', "", "x\ny"]
    env = {"TRICKY": "a'b $(false)", "BAD-NAME": "left out", "PATH": "/usr/bin:/bin"}
    script = emulated._command_script(tricky, env, tmp_path)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'a b|\'|"$HOME"||x\ny|'
    assert "left out" not in script
    script = emulated._command_script(["sh", "-c", 'echo "$TRICKY"; pwd'], env, tmp_path)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"a'b $(false)\n{tmp_path}\n"


def test_a_share_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="is no folder"):
        emulated._shares([tmp_path / "missing"])
    (share,) = emulated._shares([tmp_path, tmp_path])
    assert (share.path, share.readonly) == (tmp_path, False)


def test_the_hosts_name_goes_in_and_the_cache_stays_out(
    host: emulated.EmulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMHARNESS_CACHE", "/elsewhere")
    monkeypatch.setenv("KVMHARNESS_TRACE", "/t")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    inside = host._environment({"EXTRA": "1"})
    assert inside["KVMHARNESS_HOST"] == "emulated-snp"
    assert (inside["EXTRA"], inside["KVMHARNESS_TRACE"]) == ("1", "/t")
    assert not {"KVMHARNESS_CACHE", "SECRET_TOKEN"} & inside.keys()
