# SPDX-License-Identifier: MIT
"""A vCPU's VMSA, the page of registers that SNP's and SEV-ES's firmware measures and encrypts.

Source: AMD64 APM volume 2, table B-4 "VMSA Layout, State Save Area for SEV-ES and SEV-SNP".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

VMSA_SIZE = 4096

_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdtr", "ldtr", "idtr", "tr")
#: Parts of a segment: offset in it, and size, in bytes.
_PARTS = {"selector": (0, 2), "attributes": (2, 2), "limit": (4, 4), "base": (8, 8)}
#: Offset and size, in bytes, of what KVM fills in.
_FIELDS: dict[str, tuple[int, int]] = {
    **{
        f"{segment}.{part}": (16 * number + offset, size)
        for number, segment in enumerate(_SEGMENTS)
        for part, (offset, size) in _PARTS.items()
    },
    "vmpl": (0xCA, 1),
    "cpl": (0xCB, 1),
    "efer": (0xD0, 8),
    "xss": (0x140, 8),
    "cr4": (0x148, 8),
    "cr3": (0x150, 8),
    "cr0": (0x158, 8),
    "dr7": (0x160, 8),
    "dr6": (0x168, 8),
    "rflags": (0x170, 8),
    "rip": (0x178, 8),
    "rsp": (0x1D8, 8),
    "rax": (0x1F8, 8),
    "star": (0x200, 8),
    "lstar": (0x208, 8),
    "cstar": (0x210, 8),
    "sfmask": (0x218, 8),
    "kernel_gs_base": (0x220, 8),
    "sysenter_cs": (0x228, 8),
    "sysenter_esp": (0x230, 8),
    "sysenter_eip": (0x238, 8),
    "cr2": (0x240, 8),
    "g_pat": (0x268, 8),
    "dbgctl": (0x270, 8),
    "pkru": (0x2E8, 4),
    "tsc_aux": (0x2EC, 4),
    "tsc_scale": (0x2F0, 8),
    "tsc_offset": (0x2F8, 8),
    "rcx": (0x308, 8),
    "rdx": (0x310, 8),
    "rbx": (0x318, 8),
    "rbp": (0x328, 8),
    "rsi": (0x330, 8),
    "rdi": (0x338, 8),
    **{f"r{number}": (0x340 + 8 * (number - 8), 8) for number in range(8, 16)},
    "sev_features": (0x3B0, 8),
    "virtual_tom": (0x3C8, 8),
    "xcr0": (0x3E8, 8),
    "x87_dp": (0x400, 8),
    "mxcsr": (0x408, 4),
    "x87_ftw": (0x40C, 2),
    "x87_fsw": (0x40E, 2),
    "x87_fcw": (0x410, 2),
    "x87_fop": (0x412, 2),
    "x87_ds": (0x414, 2),
    "x87_cs": (0x416, 2),
    "x87_rip": (0x418, 8),
    "x87_registers": (0x420, 80),
    "xmm": (0x470, 256),
    "ymm": (0x570, 256),
}


def make_vmsa(values: Mapping[str, int | bytes]) -> bytes:
    """Return the page with these fields, by the names of table B-4; all others are 0.

    A segment's are ``cs.selector``, ``cs.attributes``, ``cs.limit`` and ``cs.base``. Bytes fill a
    field from its beginning. KeyError for a name that is none.
    """
    page = bytearray(VMSA_SIZE)
    for name, value in values.items():
        offset, size = _FIELDS[name]
        data = (
            value.to_bytes(size, "little") if isinstance(value, int) else value.ljust(size, b"\0")
        )
        page[offset : offset + size] = data
    return bytes(page)


def differences(wanted: bytes, had: bytes) -> Iterator[str]:
    """Say in which fields two VMSAs differ, a line each: what was wanted and what it had."""
    if wanted == had:
        return
    named = bytearray(VMSA_SIZE)
    for name, (offset, size) in _FIELDS.items():
        named[offset : offset + size] = b"\1" * size
        one, other = (page[offset : offset + size] for page in (wanted, had))
        if one != other:
            yield f"{name} ({offset:#x}): {_shown(one)} wanted, {_shown(other)} there"
    for offset in range(VMSA_SIZE):
        if not named[offset] and wanted[offset] != had[offset]:
            yield f"byte {offset:#x}: {wanted[offset]:#x} wanted, {had[offset]:#x} there"


def _shown(data: bytes) -> str:
    if len(data) <= 8:
        return hex(int.from_bytes(data, "little"))
    return data.hex()
