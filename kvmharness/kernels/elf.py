# SPDX-License-Identifier: MIT
"""The few parts of a kernel module's ELF file that the harness reads (x86_64, ET_REL)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from kvmharness.errors import HarnessError

#: Follows a module's contents when it is signed (kernel/module/signing.c).
_SIGNATURE_MARKER = b"~Module signature appended~\n"

_NOT_ELF = "not a 64-bit little-endian ELF file"


class BadModule(HarnessError):
    """A file is not a kernel module for x86_64, or not one of the expected layout."""


@dataclass(frozen=True)
class Relocation:
    """One RELA entry: where it is in the file, what it patches, and the symbol it refers to."""

    file_offset: int
    target: int  # offset in the section it applies to
    symbol: str  # a section's name, where the entry refers to a place in a section
    addend: int


@dataclass(frozen=True)
class Symbol:
    """A symbol: its place in a section (empty for one that is in none), in bytes."""

    name: str
    section: str
    offset: int
    size: int
    is_function: bool


class Module:
    """A kernel module's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._parsed: list[Symbol] | None = None
        try:
            self._file = ELFFile(BytesIO(data))
            self.sections: list[Section] = list(self._file.iter_sections())
        except (ELFError, ConstructError) as error:
            raise BadModule(f"{_NOT_ELF} ({error})") from None
        if (self._file.elfclass, self._file.little_endian) != (64, True):
            raise BadModule(_NOT_ELF)

    def section(self, name: str) -> Section:
        """Return the section called `name`. Raises BadModule."""
        for section in self.sections:
            if section.name == name:
                return section
        raise BadModule(f"the module has no section {name}")

    def name_offset(self, section: Section) -> int:
        """Return where in the file a section's name stands, in bytes."""
        names = self._file.get_section(self._file["e_shstrndx"])
        return int(names["sh_offset"] + section["sh_name"])

    def modinfo(self) -> dict[str, str]:
        """Return the fields of ``.modinfo`` (the last of each name)."""
        text = self.section(".modinfo").data().decode("latin-1")
        return dict(field.split("=", 1) for field in text.split("\0") if "=" in field)

    def parameters(self) -> list[str]:
        """Return the names of the parameters it takes, sorted (module_param())."""
        text = self.section(".modinfo").data().decode("latin-1")
        declared = (field.partition("=") for field in text.split("\0"))
        names = {value.partition(":")[0] for name, _, value in declared if name == "parmtype"}
        # module_param_cb() writes no parmtype; what it and all others make is this object.
        table = next((s for s in self.sections if s.name == ".symtab"), None)
        if isinstance(table, SymbolTableSection):
            made = (s.name for s in self._symbols(table) if s.section == "__param")
            names |= {name.removeprefix("__param_") for name in made if name}
        return sorted(names)

    def depends(self) -> list[str]:
        """Return the names of the modules this one needs loaded, ``-`` and ``_`` as written."""
        return [name for name in self.modinfo().get("depends", "").split(",") if name]

    def relocations(self, name: str) -> Iterator[Relocation]:
        """Yield the entries of the RELA section called `name`."""
        section = self.section(name)
        symbols = self._file.get_section(section["sh_link"])
        if not (isinstance(section, RelocationSection) and isinstance(symbols, SymbolTableSection)):
            raise BadModule(f"section {name} holds no relocations")
        named = self._symbols(symbols)
        for number, entry in enumerate(section.iter_relocations()):
            at = section["sh_offset"] + number * section["sh_entsize"]
            symbol = named[entry["r_info_sym"]]
            # A section's symbol has no name of its own.
            name = symbol.name or symbol.section
            yield Relocation(at, entry["r_offset"], name, entry["r_addend"])

    def functions(self) -> Iterator[Symbol]:
        """Yield the functions, in the symbol table's order. Raises BadModule."""
        symbols = self.section(".symtab")
        if not isinstance(symbols, SymbolTableSection):
            raise BadModule("section .symtab holds no symbols")
        yield from (s for s in self._symbols(symbols) if s.is_function and s.section)

    def _symbols(self, table: SymbolTableSection) -> list[Symbol]:
        """Return the symbols of a table: parsed once, for relocations refer to them by number."""
        if self._parsed is None:
            self._parsed = [
                Symbol(
                    symbol.name,
                    self.sections[at].name if isinstance(at := symbol["st_shndx"], int) else "",
                    symbol["st_value"],
                    symbol["st_size"],
                    symbol["st_info"]["type"] == "STT_FUNC",
                )
                for symbol in table.iter_symbols()
            ]
        return self._parsed


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
