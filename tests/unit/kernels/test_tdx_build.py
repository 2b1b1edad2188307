# SPDX-License-Identifier: MIT
"""The parts of building kvm-intel with TDX that need neither a compiler nor the archive."""

from __future__ import annotations

from kvmharness.host_kinds import EMULATED
from kvmharness.kernels import modulebuild, tdx_build

SOURCE = modulebuild.standin(EMULATED["emulated-tdx"])


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
