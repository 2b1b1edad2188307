# SPDX-License-Identifier: MIT
"""A module with a few functions, in machine code."""

from __future__ import annotations

from ..kernels.elf_modules import code_module

_CODE = {
    # launch: two ways to return, and an assertion
    0x00: "85 ff",  # test %edi,%edi
    0x02: "74 08",  # je 0x0c
    0x04: "e8 00 00 00 00",  # call <populate>
    0x09: "c3",  # ret
    0x0A: "cc cc",  # filling
    0x0C: "85 f6",  # test %esi,%esi
    0x0E: "78 03",  # js 0x13
    0x10: "31 c0",  # xor %eax,%eax
    0x12: "c3",
    0x13: "0f 0b",  # ud2
    0x15: "c3",
    # launch.cold
    0x20: "e8 0b 00 00 00",  # call 0x30: reclaim, of the same file
    0x25: "e9 00 00 00 00",  # jmp 0x12, which is patched in: it was another section once
    # reclaim.isra.0
    0x30: "90",
    0x31: "e9 00 00 00 00",  # jmp <release>: its last call
    # convert: a static branch to 0x46
    0x40: "0f 1f 44 00 00",
    0x45: "90",
    0x46: "31 c0",
    0x48: "c3",
    # alone: an assertion and nothing else
    0x50: "0f 0b",
    0x52: "c3",
    # warns: the block at 0x65 leads to an assertion only
    0x60: "85 ff",
    0x62: "74 01",  # je 0x65
    0x64: "c3",
    0x65: "85 f6",
    0x67: "74 00",  # je 0x69
    0x69: "0f 0b",
    0x6B: "c3",
}
_FUNCTIONS = {
    "launch": (0x00, 0x16),
    "launch.cold": (0x20, 0x0A),
    "reclaim.isra.0": (0x30, 0x06),
    "convert": (0x40, 0x09),
    "alone": (0x50, 0x03),
    "warns": (0x60, 0x0C),
}


def module() -> bytes:
    """Return the module's file."""
    code = bytearray(b"\xcc" * 0x70)
    for at, text in _CODE.items():
        instruction = bytes.fromhex(text)
        code[at : at + len(instruction)] = instruction
    calls = {0x05: ("populate", 0), 0x32: ("release", 0), 0x26: ("launch", 0x12)}
    return code_module(bytes(code), _FUNCTIONS, calls, [0x46])
