# SPDX-License-Identifier: MIT
"""Makes the smallest ELF files that pass for kernel modules."""

from __future__ import annotations

import struct

_THIS = ".gnu.linkonce.this_module"
# sh_type (elf(5))
_PROGBITS, _SYMTAB, _STRTAB, _RELA = 1, 2, 3, 4
_TYPES = {
    "": 0,
    ".symtab": _SYMTAB,
    ".strtab": _STRTAB,
    ".shstrtab": _STRTAB,
    ".rela" + _THIS: _RELA,
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
    contents[".shstrtab"] = b"\0".join(name.encode() for name in contents) + b"\0.shstrtab\0"
    names = list(contents)
    body, headers = bytearray(64), bytearray()
    for name, data in contents.items():
        link = {".rela" + _THIS: names.index(".symtab"), ".symtab": names.index(".strtab")}
        kind = _TYPES.get(name, _PROGBITS)
        entry = 24 if kind in (_SYMTAB, _RELA) else 0
        at = contents[".shstrtab"].find(b"\0" + name.encode() + b"\0") + 1 if name else 0
        headers += struct.pack(
            "<IIQQQQIIQQ", at, kind, 0, 0, len(body), len(data), link.get(name, 0), 0, 0, entry
        )
        body += data
    struct.pack_into("<16sHHIQQQIHHHHHH", body, 0, b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0,
                     len(body), 0, 64, 0, 0, 64, len(names), names.index(".shstrtab"))  # fmt: skip
    return bytes(body + headers)
