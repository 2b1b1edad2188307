# SPDX-License-Identifier: MIT
"""Coverage as lcov has it (geninfo(1)): what genhtml and editors show beside the source.

Counts are 1 and 0: how often code ran is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvmharness.coverage.lines import Line
from kvmharness.coverage.measure import FunctionCoverage


def render(functions: Iterable[FunctionCoverage]) -> str:
    """Return a tracefile of the functions whose lines are known; files as the tree has them."""
    lines: dict[str, dict[int, bool]] = {}
    entries: dict[str, list[tuple[Line, FunctionCoverage]]] = {}
    for each in functions:
        for line, reached in each.lines.items():
            of_file = lines.setdefault(line.file, {})
            of_file[line.number] = of_file.get(line.number, False) or reached
        own = [line for line in each.lines if line.file == each.source]
        if own:
            entries.setdefault(each.source, []).append((min(own), each))
    return "".join(
        _file(name, numbers, entries.get(name, ())) for name, numbers in sorted(lines.items())
    )


def _file(
    name: str, lines: dict[int, bool], entries: Iterable[tuple[Line, FunctionCoverage]]
) -> str:
    written = ["TN:", f"SF:{name}"]
    functions = sorted((line.number, each.name, int(each.reached > 0)) for line, each in entries)
    written += [f"FN:{number},{function}" for number, function, _ in functions]
    written += [f"FNDA:{hit},{function}" for _, function, hit in functions]
    written += [f"FNF:{len(functions)}", f"FNH:{sum(hit for *_, hit in functions)}"]
    written += [f"DA:{number},{int(reached)}" for number, reached in sorted(lines.items())]
    written += [f"LF:{len(lines)}", f"LH:{sum(lines.values())}", "end_of_record", ""]
    return "\n".join(written)
