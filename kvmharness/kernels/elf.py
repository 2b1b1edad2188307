# SPDX-License-Identifier: MIT
"""The few parts of a kernel module's ELF file that loading one depends on (x86_64, ET_REL)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kvmharness.errors import HarnessError

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
#: Follows a module's contents when it is signed (kernel/module/signing.c).
_SIGNATURE_MARKER = b"~Module signature appended~\n"


class BadModule(HarnessError):
    """A file is not a kernel module for x86_64, or not one of the expected layout."""


@dataclass(frozen=True)
class Section:
    """A section's place in the file (bytes) and, for relocations, its symbol table's index."""

    name: str
    name_offset: int  # in the file
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class Relocation:
    """One RELA entry: where it is in the file, what it patches, and the symbol it refers to."""

    file_offset: int
    target: int  # offset in the section it applies to
    symbol: str


class Module:
    """A kernel module's bytes."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
            raise BadModule("not a 64-bit little-endian ELF file")
        self.data = data
        (table,) = struct.unpack_from("<Q", data, 0x28)
        entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        raw = [_SECTION.unpack_from(data, table + i * entry_size) for i in range(count)]
        strings = raw[names][4]
        self.sections = [
            Section(self._string(strings + r[0]), strings + r[0], r[4], r[5], r[6]) for r in raw
        ]

    def _string(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode("latin-1")

    def section(self, name: str) -> Section:
        """Return the section called `name`. Raises BadModule."""
        for section in self.sections:
            if section.name == name:
                return section
        raise BadModule(f"the module has no section {name}")

    def modinfo(self) -> dict[str, str]:
        """Return the fields of ``.modinfo`` (the last of each name)."""
        section = self.section(".modinfo")
        text = self.data[section.offset : section.offset + section.size].decode("latin-1")
        return dict(field.split("=", 1) for field in text.split("\0") if "=" in field)

    def depends(self) -> list[str]:
        """Return the names of the modules this one needs loaded, ``-`` and ``_`` as written."""
        return [name for name in self.modinfo().get("depends", "").split(",") if name]

    def relocations(self, name: str) -> Iterator[Relocation]:
        """Yield the entries of the RELA section called `name`."""
        section = self.section(name)
        symbols = self.sections[section.link]
        strings = self._strings_of(section.link)
        for at in range(section.offset, section.offset + section.size, _RELOCATION.size):
            target, info, _ = _RELOCATION.unpack_from(self.data, at)
            symbol = _SYMBOL.unpack_from(self.data, symbols.offset + (info >> 32) * _SYMBOL.size)
            yield Relocation(at, target, self._string(strings + symbol[0]))

    def _strings_of(self, symbol_table: int) -> int:
        return self.sections[self.sections[symbol_table].link].offset


def unsigned(data: bytes) -> bytes:
    """Return a module without its appended signature; the contents stay as they are.

    Layout: contents, PKCS#7 blob, struct module_signature (12 bytes, its length big-endian last),
    marker (include/linux/module_signature.h).
    """
    if not data.endswith(_SIGNATURE_MARKER):
        return data
    end = len(data) - len(_SIGNATURE_MARKER) - 12
    (length,) = struct.unpack_from(">I", data, end + 8)
    return data[: end - length]
