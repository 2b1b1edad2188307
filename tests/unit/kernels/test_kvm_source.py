# SPDX-License-Identifier: MIT
"""KVM's directories out of a source archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from kvmharness.kernels.kvm_source import unpack_directories
from kvmharness.kernels.modulebuild import BuildFailed

NAMES = [
    "linux-source-7.3/arch/x86/kvm.txt",
    "linux-source-7.3/arch/x86/kvm/Makefile",
    "linux-source-7.3/arch/x86/kvm/vmx/tdx.c",
    "linux-source-7.3/arch/x86/lib/csum.c",
    "linux-source-7.3/virt/Makefile",
    "linux-source-7.3/virt/kvm/guest_memfd.c",
]
KVM = ("arch/x86/kvm", "virt/kvm")


def _archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name in names:
            data = name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _unpacked(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("last", [[], ["linux-source-7.3/virt/lib/irqbypass.c"]])
def test_directories_are_unpacked_out_of_a_source_archive(tmp_path: Path, last: list[str]) -> None:
    archive = _archive(tmp_path / "source.tar.xz", NAMES + last)
    unpack_directories(archive, KVM, tmp_path / "tree")
    assert _unpacked(tmp_path / "tree") == [
        "arch/x86/kvm/Makefile",
        "arch/x86/kvm/vmx/tdx.c",
        "virt/kvm/guest_memfd.c",
    ]
    assert (tmp_path / "tree/arch/x86/kvm/vmx/tdx.c").read_text() == NAMES[2]


@pytest.mark.parametrize(("there", "missing"), [(1, "arch/x86/kvm"), (4, "virt/kvm")])
def test_an_archive_without_a_directory_is_no_source(
    tmp_path: Path, there: int, missing: str
) -> None:
    archive = _archive(tmp_path / "source.tar.xz", NAMES[:there])
    with pytest.raises(BuildFailed, match=rf"source\.tar\.xz has no {missing}"):
        unpack_directories(archive, KVM, tmp_path / "tree")
