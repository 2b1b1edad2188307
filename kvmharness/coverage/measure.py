# SPDX-License-Identifier: MIT
"""How much of each function was reached, and which of its code was not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from kvmharness.coverage.code import Block, Function, functions
from kvmharness.coverage.executed import Executed, Section
from kvmharness.coverage.interest import Group
from kvmharness.coverage.lines import Line, Lines
from kvmharness.kernels.elf import Module

#: Sections of code that runs as a module is loaded, and then is gone, or as it goes.
_PASSING = (".init.text", ".exit.text")


@dataclass(frozen=True)
class Gap:
    """Code of a function that was not reached, in one piece.

    `begin`, `end`: offsets from the function's entry; `calls`: what is called there; `lines`: the
    source lines of it that were not reached elsewhere either, where they are known.
    """

    begin: int
    end: int
    calls: tuple[str, ...]
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class FunctionCoverage:
    """What of a function was reached, in basic blocks.

    Blocks that are there for an assertion's failure (WARN, BUG) or for debugging don't count:
    nothing should reach them.
    """

    name: str
    group: str
    module: str
    source: str
    blocks: int
    reached: int
    gaps: tuple[Gap, ...] = ()
    #: Its lines, what was inlined included, and whether each was reached; empty if not known.
    lines: Mapping[Line, bool] = field(default_factory=dict)

    @property
    def percent(self) -> int:
        """The share reached, rounded down; 100 for a function that is an assertion alone."""
        return 100 * self.reached // self.blocks if self.blocks else 100


class Subject:
    """The code whose coverage is measured: functions out of modules' files, by group.

    `modules`: the file of each, by its name, of those that a host loads; `lines`: of those whose
    source lines are known. Raises BadModule; ImportError where Capstone is not installed.
    """

    def __init__(
        self,
        modules: Mapping[str, Path],
        groups: Iterable[Group],
        lines: Mapping[str, Lines] | None = None,
    ) -> None:
        self._lines = lines or {}
        files = {name.replace("-", "_"): path for name, path in modules.items()}
        read: dict[str, Module] = {}
        self._functions: list[tuple[Group, Function]] = []
        for group in groups:
            if group.module not in files:
                continue
            if group.module not in read:
                read[group.module] = Module(files[group.module].read_bytes())
            found = functions(read[group.module], group.wants)
            self._functions += [(group, each) for each in found if each.section not in _PASSING]
        self.sizes: dict[Section, int] = {
            (group.module, function.section): _size(read[group.module], function.section)
            for group, function in self._functions
        }

    def measure(self, executed: Executed) -> list[FunctionCoverage]:
        """Return what was reached of each function."""
        told = [self._blocks(group, function, executed) for group, function in self._functions]
        # What is inlined in several places is reached by one of them.
        reached = {
            line for blocks in told for each in blocks if each.reached for line in each.lines
        }
        return [
            _measured(group, function, blocks, reached)
            for (group, function), blocks in zip(self._functions, told, strict=True)
        ]

    def _blocks(self, group: Group, function: Function, executed: Executed) -> list[_Block]:
        lines = self._lines.get(group.module, Lines({}))
        section = (group.module, function.section)
        return [
            _Block(
                number,
                block,
                executed.ran(section, block.begin),
                lines.of(function.section, block.begin, block.end),
            )
            for number, block in enumerate(function.blocks)
            if not block.aside
        ]


@dataclass(frozen=True)
class _Block:
    number: int  # in the function
    block: Block
    reached: bool
    lines: set[Line]


def _size(module: Module, section: str) -> int:
    return int(module.section(section).data_size)


def _measured(
    group: Group, function: Function, blocks: Sequence[_Block], reached: set[Line]
) -> FunctionCoverage:
    missed = [each for each in blocks if not each.reached]
    return FunctionCoverage(
        function.name,
        group.name,
        group.module,
        group.source,
        len(blocks),
        len(blocks) - len(missed),
        tuple(_gaps(group, function, missed, reached)),
        {line: line in reached for each in blocks for line in each.lines},
    )


def _gaps(
    group: Group, function: Function, missed: Sequence[_Block], reached: set[Line]
) -> Iterator[Gap]:
    """Join missed blocks that follow one another in the function."""
    for _, run in groupby(enumerate(missed), key=lambda each: each[1].number - each[0]):
        blocks = [each for _, each in run]
        lines = {line for each in blocks for line in each.lines} - reached
        # Lines of headers only where there are no others.
        own = {line for line in lines if line.file == group.source} or lines
        yield Gap(
            blocks[0].block.begin - function.begin,
            blocks[-1].block.end - function.begin,
            tuple(dict.fromkeys(name for each in blocks for name in each.block.calls)),
            tuple(sorted(own)),
        )
