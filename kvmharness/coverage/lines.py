# SPDX-License-Identifier: MIT
"""Source lines of a module's code.

Packaged modules have no debug information. The objects that they are made of, compiled anew with
it, have the same code; function by function that is checked here, and their lines are the module's.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from posixpath import join, normpath
from typing import Any, NamedTuple

from elftools.dwarf.lineprogram import LineProgram
from elftools.elf.elffile import ELFFile

from kvmharness.kernels.elf import BadModule, Module, Symbol

#: Debian's headers, beside which the objects are compiled, lie below such a directory.
_TREE = re.compile(r"^.*/linux-headers-[^/]*-common/")


class Line(NamedTuple):
    """A line of the kernel's source: the file from the tree's top, the line from 1."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def ranges(lines: Iterable[Line]) -> list[str]:
    """Return lines in words, those that follow one another together: ``kvm_main.c:12-15``."""
    found: list[tuple[Line, int]] = []
    for line in sorted(set(lines)):
        if found and found[-1][0].file == line.file and found[-1][1] == line.number - 1:
            found[-1] = found[-1][0], line.number
        else:
            found.append((line, line.number))
    return [f"{first}-{last}" if last > first.number else str(first) for first, last in found]


class Row(NamedTuple):
    """From this offset of a section on, code is of this line; None: nothing is known of it."""

    offset: int
    line: Line | None


class Lines:
    """The lines that the code of a module's sections is of: rows by section, sorted by offset."""

    def __init__(self, rows: Mapping[str, list[Row]]) -> None:
        self._rows = rows
        self._offsets = {section: [row.offset for row in of] for section, of in rows.items()}

    def of(self, section: str, begin: int, end: int) -> set[Line]:
        """Return the lines of the code between two offsets."""
        if section not in self._rows:
            return set()
        offsets = self._offsets[section]
        first = max(bisect_right(offsets, begin) - 1, 0)
        rows = self._rows[section][first : bisect_left(offsets, end)]
        return {row.line for row in rows if row.line is not None}

    def as_data(self) -> dict[str, Any]:
        """Return the rows as plain data, for from_data()."""
        files = sorted({row.line.file for of in self._rows.values() for row in of if row.line})
        number = {file: at for at, file in enumerate(files)}
        return {
            "files": files,
            "sections": {
                section: [
                    [row.offset, number[row.line.file], row.line.number]
                    if row.line
                    else [row.offset]
                    for row in of
                ]
                for section, of in self._rows.items()
            },
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Lines:
        """Return what as_data() was made of."""
        files = data["files"]
        return cls(
            {
                section: [
                    Row(offset, Line(files[line[0]], line[1]) if line else None)
                    for offset, *line in of
                ]
                for section, of in data["sections"].items()
            }
        )

    @classmethod
    def read(cls, module: Module, objects: Iterable[bytes]) -> Lines:
        """Return the lines of a module's functions that an object has with the same code.

        Raises BadModule for what is no object with debug information.
        """
        rows: dict[str, list[Row]] = {}
        places = {symbol.name: symbol for symbol in module.functions()}
        branches = _static_branches(module)
        for data in objects:
            compiled = Module(data)
            by_section = _by_section(data, compiled)
            for symbol in compiled.functions():
                place = places.get(symbol.name)
                if place is None:
                    continue
                code, wanted = _code(compiled, symbol), _code(module, place)
                for at in branches.get(place.section, ()):
                    _undo(code, wanted, at - place.offset)
                if code == wanted:
                    of_section = rows.setdefault(place.section, [])
                    of_section += _moved(by_section.get(symbol.section, []), symbol, place)
        return cls(
            {section: sorted(of, key=lambda row: row.offset) for section, of in rows.items()}
        )


def _code(module: Module, symbol: Symbol) -> bytearray:
    code: bytes = module.section(symbol.section).data()
    return bytearray(code[symbol.offset : symbol.offset + symbol.size])


def _static_branches(module: Module) -> dict[str, list[int]]:
    """Return where a module has static branches, by section."""
    found: dict[str, list[int]] = {}
    if any(section.name == ".rela__jump_table" for section in module.sections):
        for entry in module.relocations(".rela__jump_table"):
            if entry.target % 16 == 0:  # struct jump_entry: code, target, key
                found.setdefault(entry.symbol, []).append(entry.addend)
    return found


def _undo(code: bytearray, wanted: bytearray, at: int) -> None:
    """Put a static branch's jump where a no-op was put as the module was linked (objtool)."""
    size = {0xEB: 2, 0xE9: 5}.get(code[at], 0) if 0 <= at < len(code) else 0
    if bytes(wanted[at : at + size]) in (b"\x66\x90", b"\x0f\x1f\x44\0\0"):
        wanted[at : at + size] = code[at : at + size]


def _moved(rows: list[Row], symbol: Symbol, place: Symbol) -> Iterator[Row]:
    """Yield the rows of a function with the offsets that it has in the module."""
    end = symbol.offset + symbol.size
    first = bisect_right(rows, symbol.offset, key=lambda row: row.offset) - 1
    for row in rows[max(first, 0) :]:
        if row.offset >= end:
            break
        yield Row(max(row.offset, symbol.offset) - symbol.offset + place.offset, row.line)
    yield Row(place.offset + symbol.size, None)


def _by_section(data: bytes, compiled: Module) -> dict[str, list[Row]]:
    """Return the rows of an object's line table, by the section that they are of."""
    sections, table = _relocated(data, compiled)
    dwarf: Any = ELFFile(BytesIO(data)).get_dwarf_info(relocate_dwarf_sections=False)
    dwarf.debug_line_sec = dwarf.debug_line_sec._replace(stream=BytesIO(table))
    program = dwarf.line_program_for_CU(next(dwarf.iter_CUs()))
    files = _files(program)
    found: dict[str, list[Row]] = {section: [] for section in sections}
    sequence = 0
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        known = state.line > 0 and not state.end_sequence
        line = Line(files[state.file], state.line) if known else None
        rows = found[sections[sequence]]
        if rows and rows[-1].offset == state.address:
            rows.pop()  # of several at one address, the last is the instruction's
        rows.append(Row(state.address, line))
        sequence += state.end_sequence
    return found


def _relocated(data: bytes, compiled: Module) -> tuple[list[str], bytes]:
    """Return the section of each sequence of the line table, and the table with its addresses.

    pyelftools would relocate all debug information, which takes seconds.
    """
    try:
        table = bytearray(compiled.section(".debug_line").data())
    except BadModule:
        raise BadModule("the object has no debug information") from None
    sections = []
    for entry in compiled.relocations(".rela.debug_line"):
        if entry.symbol.startswith(".debug"):
            struct.pack_into("<I", table, entry.target, entry.addend)  # a name's place
        else:
            struct.pack_into("<Q", table, entry.target, entry.addend)  # a sequence's beginning
            sections.append(entry.symbol)
    return sections, bytes(table)


def _files(program: LineProgram) -> list[str]:
    """Return the names of the source files from the tree's top, by number (DWARF 5)."""
    directories = [each.decode() for each in program["include_directory"]]
    paths = (
        normpath(join(directories[0], directories[each.dir_index], each.name.decode()))
        for each in program["file_entry"]
    )
    return [_TREE.sub("", path) for path in paths]
