# SPDX-License-Identifier: MIT
"""Kernels that the user built: what is taken of them, and what is said of those that lack it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.kernels import kernels, trees

from .elf_modules import kernel_module

RELEASE = "7.3.4-mine+"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))


def image(release: str = RELEASE) -> bytes:
    """Return what passes for a bzImage of a release."""
    data = bytearray(0x400)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x100)
    version = f"{release} (me@here) #1 SMP".encode()
    data[0x300 : 0x300 + len(version)] = version
    return bytes(data)


def tree(directory: Path) -> Path:
    """Return what passes for a built tree."""
    for path, data in {
        "Makefile": b"",
        ".config": b"",
        "Module.symvers": b"",
        "include/config/kernel.release": f"{RELEASE}\n".encode(),
        trees.IMAGE: image(),
        "arch/x86/kvm/kvm.ko": kernel_module(modinfo=b"depends=irqbypass\0"),
        "virt/lib/irqbypass.ko": kernel_module(modinfo=b"depends=\0"),
        "drivers/other/other.ko": kernel_module(modinfo=b"depends=\0"),
    }.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def test_a_tree_gives_its_image_and_the_modules_that_hosts_load(tmp_path: Path) -> None:
    built = tree(tmp_path / "linux")
    kernel = kernels.get(str(built))
    assert (kernel.release, kernel.tree, kernel.origin) == (RELEASE, built, f"build tree {built}")
    assert kernel.image.read_bytes() == image()
    assert sorted(path.name for path in kernel.modules.iterdir()) == ["irqbypass.ko", "kvm.ko"]


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("Makefile", "there is no Makefile: it is no kernel tree"),
        (".config", "it has no .config and no arch/x86/boot/bzImage: build it"),
        (trees.IMAGE, "it has no arch/x86/boot/bzImage: build it (make -C "),
        ("Module.symvers", "it has no Module.symvers: build it (make -C "),
    ],
)
def test_a_tree_without_a_build_says_how_to_make_it(tmp_path: Path, gone: str, told: str) -> None:
    built = tree(tmp_path)
    (built / trees.IMAGE).unlink(missing_ok=gone != "Module.symvers")
    if gone == "Module.symvers":
        (built / trees.IMAGE).write_bytes(image())
    (built / gone).unlink(missing_ok=True)
    with pytest.raises(MissingCapability) as raised:
        trees.get(built)
    assert told in raised.value.reason
    assert "kvmharness kernel fragment" in raised.value.reason or gone == "Makefile"


def test_an_image_in_its_tree_is_the_tree(tmp_path: Path) -> None:
    built = tree(tmp_path / "linux")
    assert kernels.get(str(built / trees.IMAGE)) == kernels.get(str(built))


@pytest.mark.parametrize("place", ["vmlinuz", "boot/vmlinuz-7.3.4-mine+"])
def test_an_image_takes_its_modules_from_beside_it(tmp_path: Path, place: str) -> None:
    """As make modules_install, or a package that is unpacked, puts them: packed or not."""
    built = tree(tmp_path / "linux")
    there = tmp_path / "installed"
    installed = there / "lib/modules" / RELEASE
    (installed / "kernel").mkdir(parents=True)
    (installed / "build").symlink_to(built)
    (installed / "kernel/kvm.ko").write_bytes(kernel_module(modinfo=b"depends=\0"))
    (there / place).parent.mkdir(exist_ok=True)
    (there / place).write_bytes(image())
    kernel = kernels.get(str(there / place))
    assert (kernel.release, kernel.tree) == (RELEASE, built)
    assert kernel.origin == f"image {there / place}"
    assert kernel.module("kvm") is not None
    (installed / "build").unlink()
    with pytest.raises(MissingCapability, match="build leads to no tree"):
        kernels.get(str(there / place))


def test_an_image_without_modules_says_where_they_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(image())
    with pytest.raises(MissingCapability, match=r"lib/modules/7\.3\.4-mine\+ is taken from beside"):
        kernels.get(str(tmp_path / "vmlinuz"))


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(0x400)])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(data)
    with pytest.raises(MissingCapability, match="it is no bzImage"):
        kernels.get(str(tmp_path / "vmlinux"))
