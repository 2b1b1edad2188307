# SPDX-License-Identifier: MIT
"""What an emulated host boots into: its modules, its programs, the command, what is carried in."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

from kvmharness import labels
from kvmharness.errors import HarnessError, UsageError
from kvmharness.host_kinds import EMULATED
from kvmharness.hosts import emulated
from kvmharness.hosts.boot_image import command_script
from kvmharness.hosts.qemu import Qemu
from kvmharness.kernels import kernels

from ..kernels.elf_modules import kernel_module
from .cpio import read

STANDIN = kernel_module(modinfo=b"vermagic=1\0depends=\0parmtype=smt:bool\0parmtype=leak:int\0")
#: Of modules of the kernel: the parameters they take.
PARAMETERS = {
    "kvm": b"parmtype=tdp_mmu:bool\0parm=tdp_mmu:what it does\0parmtype=ignore_msrs:bool\0",
    "kvm-amd": b"parmtype=sev:bool\0",
}


@pytest.fixture
def host(tmp_path: Path) -> emulated.EmulatedHost:
    """A host whose kernel is made up: nothing of it can boot."""
    modules = tmp_path / "modules"
    modules.mkdir()
    depends = {"kvm": "irqbypass", "kvm-amd": "kvm,ccp", "9p": "9pnet", "9pnet-virtio": "9pnet"}
    for name in ("irqbypass", "kvm", "ccp", "kvm-amd", "9pnet", "9p", "9pnet-virtio", "overlay"):
        modinfo = f"vermagic=1\0name={name}\0depends={depends.get(name, '')}\0".encode()
        modinfo += PARAMETERS.get(name, b"")
        (modules / f"{name}.ko").write_bytes(kernel_module(modinfo=modinfo))
    (tmp_path / "busybox").write_bytes(b"busybox")
    (tmp_path / "standin.ko").write_bytes(STANDIN)
    return emulated.EmulatedHost(
        kind=EMULATED["emulated-snp"],
        kernel=kernels.Kernel("7.3.4", tmp_path / "vmlinux", modules, "nowhere"),
        qemu=Qemu(("false",), "0"),
        built={"snp_standin": tmp_path / "standin.ko"},
        busybox=tmp_path / "busybox",
        facts={"kind": "emulated-snp"},
    )


def _booted(host: emulated.EmulatedHost) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    return read(host._boot_image())


def test_modules_are_loaded_in_an_order_that_serves_all(host: emulated.EmulatedHost) -> None:
    found = _booted(host.with_module_options(["snp_standin.smt=0", "kvm_amd.sev=1"]))
    plan = found["plan"][1].decode()
    listed = plan.split("'")[1].splitlines()
    assert listed == [
        "irqbypass.ko",
        "kvm.ko",
        "ccp.ko",
        "snp_standin.ko smt=0",
        "kvm-amd.ko sev=1",
        "9pnet.ko",
        "9p.ko",
        "9pnet-virtio.ko",
        "overlay.ko",
    ]
    assert found["modules/snp_standin.ko"][1] == STANDIN
    assert stat.S_IMODE(found["init"][0]) == 0o755


def test_what_was_loaded_otherwise_is_in_the_label_and_the_facts(
    host: emulated.EmulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.label.kernel == "7.3.4"
    varied = host.with_module_options(["kvm.tdp_mmu=0", "kvm.ignore_msrs=1"])
    assert varied.module_options == {"kvm": "tdp_mmu=0 ignore_msrs=1"}
    assert varied.label.kernel == "7.3.4 kvm.tdp_mmu=0 kvm.ignore_msrs=1"
    assert varied.facts["module_options"] == ["kvm.tdp_mmu=0", "kvm.ignore_msrs=1"]
    # And inside, where the records are made.
    for name, value in varied._environment(None).items():
        monkeypatch.setenv(name, value)
    assert labels.current() == varied.label
    assert "module_options" not in host.facts


def test_a_module_of_ones_own_takes_the_place_of_the_kernels(
    host: emulated.EmulatedHost, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.ko"
    mine.write_bytes(kernel_module(modinfo=b"vermagic=1\0name=kvm_amd\0depends=kvm,ccp\0"))
    changed = host.with_modules([f"kvm-amd={mine}"])
    assert _booted(changed)["modules/kvm-amd.ko"][1] == mine.read_bytes()
    assert changed.label.kernel == changed.facts["kernel"] == "7.3.4+mine.ko"
    assert changed.facts["modules"] == {"kvm-amd": str(mine)}
    assert changed.facts["rebuilt"] == ["kvm-amd"]
    assert changed.kernel.identity != host.kernel.identity


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("kvm", "give NAME=PATH"),
        ("kvm=/no/such.ko", "no such file"),
        ("kvm_intel={}", "module kvm-intel: none of this name is loaded there; there are: "),
        ("kvm={}", "is the module kvm_amd"),
        ("kvm-amd={}", "is built for 2, and the kernel's is 1"),
        ("kvm-amd=/proc/version", "is no kernel module"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    host: emulated.EmulatedHost, tmp_path: Path, given: str, told: str
) -> None:
    mine = tmp_path / "mine.ko"
    mine.write_bytes(kernel_module(modinfo=b"vermagic=2\0name=kvm_amd\0depends=kvm,ccp\0"))
    with pytest.raises(UsageError, match=re.escape(told)):
        host.with_modules([given.format(mine)])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("kvm.tdp_mu=0", "kvm has no parameter tdp_mu; it has: ignore_msrs, tdp_mmu"),
        ("overlay.x=1", "overlay has no parameter x; it has none"),
        ("kvm_intel.tdx=1", "no module kvm_intel is loaded there; there are: 9p, 9pnet, "),
    ],
)
def test_an_option_that_a_module_has_not_got_is_refused_with_those_there_are(
    host: emulated.EmulatedHost, option: str, told: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        host.with_module_options([option])


def test_every_program_of_init_is_there(host: emulated.EmulatedHost) -> None:
    """Whatever init calls is a shell builtin, a function of its own or an applet that is linked."""
    found = _booted(host)
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
    script = command_script(tricky, env, tmp_path)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'a b|\'|"$HOME"||x\ny|'
    assert "left out" not in script
    script = command_script(["sh", "-c", 'echo "$TRICKY"; pwd'], env, tmp_path)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"a'b $(false)\n{tmp_path}\n"


def test_a_share_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="is no directory"):
        emulated._shares([tmp_path / "missing"])
    (share,) = emulated._shares([tmp_path, tmp_path])
    assert (share.path, share.inside, share.readonly) == (tmp_path, tmp_path, False)


def test_the_hosts_name_goes_in_and_the_cache_stays_out(
    host: emulated.EmulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMHARNESS_CACHE", "/elsewhere")
    monkeypatch.setenv("KVMHARNESS_TRACE", "/t")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    inside = host._environment({"EXTRA": "1"})
    assert inside["KVMHARNESS_HOST"] == "emulated-snp"
    assert inside["KVMHARNESS_HOST_KERNEL"] == host.kernel.label
    assert (inside["EXTRA"], inside["KVMHARNESS_TRACE"]) == ("1", "/t")
    assert not {"KVMHARNESS_CACHE", "SECRET_TOKEN"} & inside.keys()
