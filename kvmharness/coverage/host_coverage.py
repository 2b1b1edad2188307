# SPDX-License-Identifier: MIT
"""What the runs on one host reached, and what is told of it: a table, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import kvmharness
from kvmharness.coverage.floors import Fallen, fallen
from kvmharness.coverage.lines import ranges
from kvmharness.coverage.measure import FunctionCoverage
from kvmharness.labels import HostLabel

SCHEMA = "kvmharness.kernel-coverage/1"


@dataclass(frozen=True)
class HostCoverage:
    """The coverage of a host's KVM modules, of `boots` boots together.

    `floors`: what the suite has to reach, in percent by function; empty where there are none for
    this kernel, or only a part of the suite was run.
    """

    label: HostLabel
    boots: int
    functions: Sequence[FunctionCoverage]
    floors: Mapping[str, int] = field(default_factory=dict)

    @property
    def fallen(self) -> list[Fallen]:
        """The functions below their floor."""
        return list(fallen(self.functions, self.floors))

    def as_json(self) -> str:
        """Return all that is known, as docs/formats.md has it."""
        told = {
            "schema": SCHEMA,
            "version": kvmharness.__version__,
            "kind": self.label.kind,
            "kernel": self.label.kernel,
            "emulated": self.label.emulated,
            "words": self.label.words,
            "boots": self.boots,
            "functions": [self._function(each) for each in self.functions],
            "fallen": [str(each) for each in self.fallen],
        }
        return json.dumps(told, indent=2) + "\n"

    def _function(self, each: FunctionCoverage) -> dict[str, object]:
        return {
            "function": each.name,
            "group": each.group,
            "module": each.module,
            "source": each.source,
            "blocks": each.blocks,
            "reached": each.reached,
            "percent": each.percent,
            "floor": self.floors.get(each.name),
            "not_reached": [
                {
                    "begin": gap.begin,
                    "end": gap.end,
                    "calls": list(gap.calls),
                    "lines": ranges(gap.lines),
                }
                for gap in each.gaps
            ],
        }

    def show(self, console: Console) -> None:
        """Print a table: a function a line, what of it was not reached, its floor."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        table.add_column("function", no_wrap=True)
        table.add_column("reached", justify="right", no_wrap=True)
        table.add_column("blocks", justify="right", no_wrap=True)
        table.add_column("floor", justify="right", no_wrap=True)
        lines = any(each.lines for each in self.functions)
        if lines:
            table.add_column("lines not reached", overflow="fold", ratio=1)
        table.add_column("calls not reached", overflow="fold", ratio=1)
        for (group, source), members in groupby(self.functions, key=lambda e: (e.group, e.source)):
            table.add_row(Text(f"{group}: {source}", style="bold"))
            for each in members:
                table.add_row(*self._row(each, lines))
        console.print(Text(f"what was reached of KVM: {self.label.words}", style="bold"))
        console.print(table)
        for below in self.fallen:
            console.print(Text(str(below), style="bold red"))

    def _row(self, each: FunctionCoverage, lines: bool) -> Iterator[Text]:
        floor = self.floors.get(each.name)
        below = floor is not None and each.percent < floor
        style = "bold red" if below else "green" if each.percent == 100 else "yellow"
        yield Text(f"  {each.name}")
        yield Text(f"{each.percent} %", style=style)
        yield Text(f"{each.reached}/{each.blocks}")
        yield Text("" if floor is None else f"{floor} %")
        if lines:
            missed = [line for gap in each.gaps for line in gap.lines if line.file == each.source]
            yield Text(", ".join(name.removeprefix(f"{each.source}:") for name in ranges(missed)))
        yield Text(", ".join(dict.fromkeys(name for gap in each.gaps for name in gap.calls)))
