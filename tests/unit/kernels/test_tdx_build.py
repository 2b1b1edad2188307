# SPDX-License-Identifier: MIT
"""The parts of building kvm-intel with TDX that need neither a compiler nor the archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from kvmharness.host_kinds import EMULATED
from kvmharness.hosts.emulated import standin_source
from kvmharness.kernels import tdx_build
from kvmharness.kernels.modulebuild import BuildFailed

SOURCE = standin_source(EMULATED["emulated-tdx"])


def _archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name in names:
            data = name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_the_stand_ins_exports_are_what_the_kernels_wrappers_are_called() -> None:
    lines = tdx_build._exported(SOURCE).splitlines()
    fields = [line.split("\t") for line in lines]
    assert {(crc, module, how, space) for crc, _, module, how, space in fields} == {
        ("0x00000000", "tdx_standin", "EXPORT_SYMBOL_GPL", "")
    }
    names = {field[1] for field in fields}
    assert len(names) == len(lines)
    assert {"tdh_mem_page_add", "tdh_mr_finalize", "tdh_vp_enter", "tdx_get_sysinfo"} <= names
    assert all(name.startswith(("tdh_", "tdx_")) for name in names)


def test_one_directory_is_unpacked_out_of_a_source_archive(tmp_path: Path) -> None:
    names = [
        "linux-source-7.3/arch/x86/kvm.txt",
        "linux-source-7.3/arch/x86/kvm/Makefile",
        "linux-source-7.3/arch/x86/kvm/vmx/tdx.c",
        "linux-source-7.3/arch/x86/lib/csum.c",
        "linux-source-7.3/virt/kvm/guest_memfd.c",
    ]
    archive = _archive(tmp_path / "source.tar.xz", names)
    tdx_build._unpack_directory(archive, "arch/x86/kvm", tmp_path / "kvm")
    unpacked = sorted(
        str(path.relative_to(tmp_path / "kvm"))
        for path in (tmp_path / "kvm").rglob("*")
        if path.is_file()
    )
    assert unpacked == ["Makefile", "vmx/tdx.c"]
    assert (tmp_path / "kvm/vmx/tdx.c").read_text() == names[2]


def test_an_archive_without_the_directory_is_no_source(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "source.tar.xz", ["linux-source-7.3/README"])
    with pytest.raises(BuildFailed, match=r"source\.tar\.xz has no arch/x86/kvm"):
        tdx_build._unpack_directory(archive, "arch/x86/kvm", tmp_path / "kvm")
