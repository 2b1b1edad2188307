# SPDX-License-Identifier: MIT
from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvmharness.launch.tdx_status import OPERAND_NAMES, STATUS_NAMES, status_code, status_name
from kvmharness.resources import images_dir

# Values and names as arch/x86/include/asm/shared/tdx_errno.h of Linux 7.3 has them.
_LINUX = {
    0x8000000300000000: "INTERRUPTED_RESUMABLE",
    0x8000020200000000: "SYS_BUSY",
    0xC000010000000000: "OPERAND_INVALID",
    0x8000020000000000: "OPERAND_BUSY",
    0x8000020100000000: "PREVIOUS_TLB_EPOCH_BUSY",
    0xC000030000000000: "PAGE_METADATA_INCORRECT",
    0x8000070200000000: "VCPU_NOT_ASSOCIATED",
    0x8000080000000000: "KEY_GENERATION_FAILED",
    0xC000081100000000: "KEY_STATE_INCORRECT",
    0x0000081500000000: "KEY_CONFIGURED",
    0x0000082100000000: "NO_HKID_READY_TO_WBCACHE",
    0x8000082400000000: "FLUSHVP_NOT_DONE",
    0xC0000B0000000000: "EPT_WALK_FAILED",
    0xC0000B0D00000000: "EPT_ENTRY_STATE_INCORRECT",
    0xC0000C0200000000: "METADATA_FIELD_NOT_READABLE",
}


@pytest.mark.parametrize(("status", "name"), _LINUX.items())
def test_names_are_linuxs(status: int, name: str) -> None:
    assert status_name(status) == name
    assert status_code(name) == status


def test_the_operand_is_named() -> None:
    assert status_name(0xC000010000000001) == "OPERAND_INVALID:RCX"
    assert status_name(0x8000020000000080) == "OPERAND_BUSY:TDR"
    assert status_name(0xC0000B0D00000092) == "EPT_ENTRY_STATE_INCORRECT:SEPT_TREE"
    assert status_name(0x80000200000000A9) == "OPERAND_BUSY:TD_EPOCH"
    assert status_code("OPERAND_INVALID", "XFAM") == 0xC000010000000041


def test_details_that_are_no_operand_are_numbers() -> None:
    assert status_name(0xC000092000000010) == "INCONSISTENT_MSR:0x10"
    assert status_name(0xC0000100000000FE) == "OPERAND_INVALID:0xfe"


def test_what_is_not_known_is_its_number() -> None:
    assert status_name(0) == "0x0"
    assert status_name(0xC000FFFF00000001) == "0xc000ffff00000001"
    assert status_name(0x8000FF000000000D) == "SEAMCALL_GP"
    with pytest.raises(KeyError):
        status_code("OPERAND_LAZY")


def test_names_are_given_once() -> None:
    assert len(set(STATUS_NAMES.values())) == len(STATUS_NAMES)
    assert len(set(OPERAND_NAMES.values())) == len(OPERAND_NAMES)


def test_the_software_module_uses_the_same_numbers() -> None:
    """The stand-in defines what the kernel's header lacks; both have to say the same."""
    source = Path(images_dir() / "emulated_host/tdx_standin/tdx_module.h").read_text()
    defined = re.findall(r"#define TDX_(\w+)\s+0x([0-9A-F]{16})ULL", source)
    assert len(defined) >= 10
    for name, value in defined:
        assert status_code(name) == int(value, 16), name
    for name, number in re.findall(r"OPERAND_(\w+) = (\d+)", source):
        assert OPERAND_NAMES[int(number)] == name
