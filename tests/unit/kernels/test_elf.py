# SPDX-License-Identifier: MIT
"""Reading kernel modules, taking signatures off, and moving a module to another kernel."""

from __future__ import annotations

import struct

import pytest

from kvmharness.kernels.elf import BadModule, Module, unsigned
from kvmharness.kernels.transplant import transplant

from .elf_modules import kernel_module

_RELOCATIONS = ".rela.gnu.linkonce.this_module"


def test_dependencies_are_read() -> None:
    module = Module(kernel_module())
    assert module.depends() == ["kvm", "ccp"]
    assert module.modinfo()["vermagic"] == "6.12 SMP"


def test_a_module_without_dependencies_has_none() -> None:
    assert Module(kernel_module(modinfo=b"vermagic=1\0depends=\0")).depends() == []


@pytest.mark.parametrize("junk", [b"", b"\x7fELF", b"MZ" + bytes(100)])
def test_other_files_are_refused(junk: bytes) -> None:
    with pytest.raises(BadModule, match="not a 64-bit"):
        Module(junk)


def test_a_signature_is_taken_off_and_nothing_else() -> None:
    module = kernel_module()
    signature = b"PKCS7" * 20
    info = bytes(8) + struct.pack(">I", len(signature))
    signed = module + signature + info + b"~Module signature appended~\n"
    assert unsigned(signed) == module
    assert unsigned(module) == module


def test_a_transplanted_module_has_its_entry_points_where_the_target_has_them() -> None:
    reference = kernel_module(init_at=0x140, exit_at=0x4D8)
    moved = Module(transplant(kernel_module(), reference))
    places = {r.symbol: r.target for r in moved.relocations(_RELOCATIONS)}
    assert places == {"init_module": 0x140, "cleanup_module": 0x4D8}


def test_a_transplanted_module_claims_no_kernel() -> None:
    moved = Module(transplant(kernel_module(), kernel_module()))
    assert "vermagic" not in moved.modinfo()
    assert moved.modinfo()["xermagic"] == "6.12 SMP"
    assert "__versions" not in [section.name for section in moved.sections]
    assert moved.depends() == ["kvm", "ccp"]


def test_kernels_whose_struct_module_differs_are_refused() -> None:
    with pytest.raises(BadModule, match="struct module has 1280 bytes in the one kernel, 1344"):
        transplant(kernel_module(), kernel_module(struct_module=1344))


def test_a_kernel_without_module_versions_is_served_too() -> None:
    moved = Module(transplant(kernel_module(versions=False), kernel_module()))
    assert "vermagic" not in moved.modinfo()
