# SPDX-License-Identifier: MIT
"""Makes the smallest ELF files that pass for kernel modules."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_THIS = ".gnu.linkonce.this_module"
# sh_type (elf(5))
_PROGBITS, _SYMTAB, _STRTAB, _RELA = 1, 2, 3, 4
_TYPES = {
    "": 0,
    ".symtab": _SYMTAB,
    ".strtab": _STRTAB,
    ".shstrtab": _STRTAB,
}


def kernel_module(
    *,
    modinfo: bytes = b"vermagic=6.12 SMP\0depends=kvm,ccp\0",
    init_at: int = 0x138,
    exit_at: int = 0x4C0,
    struct_module: int = 0x500,
    versions: bool = True,
) -> bytes:
    """Return an ET_REL file with .modinfo, struct module and its two relocations."""
    strings = b"\0init_module\0cleanup_module\0"
    symbols = b"".join(
        struct.pack("<IBBHQQ", strings.find(name), 0, 0, 0, 0, 0)
        for name in (b"\0", b"init_module", b"cleanup_module")
    )
    relocations = struct.pack("<QQq", init_at, 1 << 32 | 1, 0)
    relocations += struct.pack("<QQq", exit_at, 2 << 32 | 1, 0)
    contents = {
        "": b"",
        ".modinfo": modinfo,
        _THIS: bytes(struct_module),
        ".rela" + _THIS: relocations,
        ".symtab": symbols,
        ".strtab": strings,
    }
    if versions:
        contents["__versions"] = bytes(64)
    return _file(contents)


def code_module(
    code: bytes,
    functions: Mapping[str, tuple[int, int]],
    calls: Mapping[int, tuple[str, int]],
    branches: Sequence[int] = (),
) -> bytes:
    """Return an ET_REL file with code in .text.

    `functions`: the offset and size of each; `calls`: by the offset of the field that it is to be
    put into, a function and how far behind its entry; `branches`: targets of static branches.
    """
    strings, symbols = bytearray(b"\0"), bytearray(24)
    # The section's own symbol, nr 1, has no name (STT_SECTION).
    symbols += struct.pack("<IBBHQQ", 0, 3, 0, 1, 0, 0)
    numbers = {}
    for name in dict.fromkeys((*functions, *(name for name, _ in calls.values()))):
        at, size = functions.get(name, (0, 0))
        kind = 0x12 if name in functions else 0x10  # STB_GLOBAL; STT_FUNC, STT_NOTYPE
        numbers[name] = len(symbols) // 24
        section = 1 if name in functions else 0
        symbols += struct.pack("<IBBHQQ", len(strings), kind, 0, section, at, size)
        strings += name.encode() + b"\0"
    plt32, pc32 = 4, 2
    called = (
        struct.pack("<QQq", at, numbers[name] << 32 | plt32, behind - 4)
        for at, (name, behind) in calls.items()
    )
    entered = (struct.pack("<QQq", 4, 1 << 32 | pc32, target) for target in branches)
    return _file(
        {
            "": b"",
            ".text": code,
            ".rela.text": b"".join(called),
            "__jump_table": bytes(16 * len(branches)),
            ".rela__jump_table": b"".join(entered),
            ".symtab": bytes(symbols),
            ".strtab": bytes(strings),
        }
    )


def _file(contents: dict[str, bytes]) -> bytes:
    """Return an ET_REL file with these sections, in this order."""
    contents[".shstrtab"] = b"\0".join(name.encode() for name in contents) + b"\0.shstrtab\0"
    names = list(contents)
    body, headers = bytearray(64), bytearray()
    for name, data in contents.items():
        kind = _RELA if name.startswith(".rela") else _TYPES.get(name, _PROGBITS)
        link = {_RELA: names.index(".symtab"), _SYMTAB: names.index(".strtab")}
        entry = 24 if kind in (_SYMTAB, _RELA) else 0
        at = contents[".shstrtab"].find(b"\0" + name.encode() + b"\0") + 1 if name else 0
        headers += struct.pack(
            "<IIQQQQIIQQ", at, kind, 0, 0, len(body), len(data), link.get(kind, 0), 0, 0, entry
        )
        body += data
    struct.pack_into("<16sHHIQQQIHHHHHH", body, 0, b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0,
                     len(body), 0, 64, 0, 0, 64, len(names), names.index(".shstrtab"))  # fmt: skip
    return bytes(body + headers)
