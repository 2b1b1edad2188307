# SPDX-License-Identifier: MIT
"""A review for people: what was run on which kernels, what changed, and what was not tested.

As wide as asked for, and plain ASCII where it goes into a mail.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvmharness.kernels.patches import configures
from kvmharness.matrix.model import Cell
from kvmharness.review.model import Difference, Kind, Review

#: For a mail.
WIDTH = 76
#: Lines of the kernel's log shown of one outcome.
_LOG_LINES = 12
# Registers and the like of a kernel's report: whoever needs them has the JSON.
_DETAIL = re.compile(
    r"CPU: |Tainted: |Hardware name: |Modules linked in: |Code: |R[A-Z0-9]{2}: |[FCG]S: |[CD]R\d: "
    r"|PKRU: |---\[|-----"
)
#: Scenarios named that changed in the same way.
_ALIKE = 8
_NAMES = {"default": "default VMs", "snp": "SNP", "tdx": "TDX"}
_HEADINGS: Mapping[Kind, str] = {
    "broken": "Broken",
    "changed": "Changed, not broken",
    "unsteady": "Came out differently once, and not in a second boot",
}


def render(review: Review, width: int = WIDTH, tested_by: str = "") -> str:
    """Return the review as lines of at most `width` characters.

    `tested_by`: ``Name <mail>`` for the trailer, which a series gets of which nothing broke and
    nothing is unknown.
    """
    lines = [line.rstrip() for line in _Text(review, width).lines(tested_by)]
    return "".join(f"{line}\n" for line in lines)


def summary(review: Review) -> str:
    """Return the result in one line."""
    if review.build_error:
        return f"the series does not build on {review.kernel}"
    if review.broken_builds:
        numbers = ", ".join(str(step.number) for step in review.broken_builds)
        return f"the series does not build up to patch {numbers}"
    if down := [side.after.label.kind for side in review.sides if side.down]:
        return f"with the series {' and '.join(dict.fromkeys(down))} does not come up"
    compared = sum(side.compared for side in review.sides)
    if not compared:
        return "nothing could be compared"
    found = Counter(each.kind for each in review.differences)
    counts = [f"{found[kind]} {kind}" for kind in _HEADINGS if found[kind]]
    return f"{compared} scenarios compared: {', '.join(counts) or 'nothing changed'}"


@dataclass(frozen=True)
class _Text:
    review: Review
    width: int

    def lines(self, tested_by: str) -> Iterator[str]:
        yield from self._what()
        yield from self._where()
        yield ""
        yield from self._wrap(f"Result: {summary(self.review)}")
        yield from self._builds()
        for kind, heading in _HEADINGS.items():
            found = [d for d in self.review.differences if d.kind == kind]
            if found:
                yield from _heading(heading)
                for group in _alike(found):
                    yield ""
                    yield from self._difference(group)
        yield from self._first()
        yield from _heading("Not tested")
        for line in self._not_tested():
            yield from self._wrap(line, "- ", "  ")
        yield ""
        yield f"made with kvmharness {self.review.version}"
        if tested_by and self.review.vouched_for:
            yield ""
            yield f"Tested-by: {tested_by}"

    # -------------------------------------------------------------- what was run

    def _what(self) -> Iterator[str]:
        series = self.review.series
        titles = [patch.title for patch in series.patches]
        number = f"{len(titles)} patch{'es' * (len(titles) != 1)}"
        yield from self._wrap(f"{series.name}: {number} on Linux {self.review.kernel}")
        for place, title in enumerate(titles, 1):
            yield from self._wrap(title, f"  {place}. ", "     ")
        rebuilt = "could not be" if self.review.build_error else "were"
        yield from self._wrap(
            f"With it, kvm.ko, kvm-amd.ko and kvm-intel.ko {rebuilt} rebuilt from the packaged "
            f"kernel's source ({self.review.origin}), warnings being errors (KVM_WERROR). The rest "
            "is as packaged, but that kvm-intel.ko has TDX on, without the series too."
        )
        for note in (*series.notes, *(f"fuzz: {line}" for line in self.review.fuzz)):
            yield from self._wrap(f"note: {note}", "", "  ")

    def _where(self) -> Iterator[str]:
        if not self.review.sides:
            return
        yield ""
        yield from self._wrap(
            "Run with and without the series on emulated hosts (QEMU's software emulation, "
            "stand-ins for the silicon): not a hardware result."
        )
        for side in self.review.sides:
            name = _NAMES.get(side.vm_type, side.vm_type)
            where = f"  {name} on {side.after.label.kind}"
            if not side.compared:
                words = f"with the series it does not come up: {side.down}" if side.down else ""
                words = words or (f"not known: {side.unknown}" if side.unknown else "not there")
                yield from self._wrap(f"{where}: {words}", "", "    ")
                continue
            alike = side.compared - len(side.differences)
            counts = [f"{side.compared} scenarios compared, {alike} alike"]
            counts += [f"{len(side.of_kind(k))} {k}" for k in _HEADINGS if side.of_kind(k)]
            yield from self._wrap(f"{where}: {', '.join(counts)}", "", "    ")

    def _builds(self) -> Iterator[str]:
        if self.review.steps:
            yield ""
            broken = self.review.broken_builds
            if not broken:
                yield from self._wrap("Each patch builds without a warning.")
            else:
                first = broken[0]
                yield from self._wrap(
                    f"Patch {first.number} is the first that breaks the build: {first.title}"
                )
            for step in broken:
                yield from self._error(f"up to patch {step.number}:", step.error)
        elif self.review.build_error:
            yield from self._error("The build's errors:", self.review.build_error)
            if len(self.review.series.patches) > 1:
                yield from self._wrap("--each tells which patch breaks it.")

    def _error(self, lead: str, error: str) -> Iterator[str]:
        yield from self._wrap(lead)
        for line in error.splitlines():
            yield from self._wrap(line, "  ", "    ")

    # -------------------------------------------------------------- what changed

    def _difference(self, group: Sequence[Difference]) -> Iterator[str]:
        shown = group if len(group) <= _ALIKE else group[: _ALIKE - 1]
        for each in shown:
            yield from self._wrap(f"{each.scenario}: {each.summary}", "", "    ")
        if len(shown) < len(group):
            yield from self._wrap(f"and {len(group) - len(shown)} more, alike")
        first = group[0]
        sides = (("without", first.before), ("with", first.after))
        for words, cell in sides:
            yield from self._wrap(_cell(cell), f"  {words:<7}  ", " " * 11)
            for line in _shown_log(cell):
                yield from self._wrap(line, " " * 11 + "log: ", " " * 13)
        yield from self._wrap(first.why, "  > ", "    ")

    def _first(self) -> Iterator[str]:
        if self.review.first:
            yield ""
        for first in self.review.first:
            what = "breaks" if first.kind == "broken" else "changes"
            yield from self._wrap(
                f"Patch {first.number} is the first that {what} {', '.join(first.scenarios)}: "
                f"{first.title}"
            )

    # -------------------------------------------------------------- what was not tested

    def _not_tested(self) -> Iterator[str]:
        yield "hardware: no silicon or firmware had a part, and no confidential guest ran"
        yield "what no scenario tries: guests, other than in default VMs, and most of KVM"
        yield (
            "locking and memory as lockdep, KASAN and kmemleak see them: packaged kernels have none"
        )
        ignored: dict[str, list[str]] = {}
        for path, what in self.review.series.ignored.items():
            ignored.setdefault(what, []).append(path)
        for what, paths in ignored.items():
            yield f"{what} in the series, left out: {', '.join(paths)}"
        configured = [c.path for c in self.review.series.changes if configures(c.path)]
        if configured:
            yield (
                f"what {', '.join(dict.fromkeys(configured))} changes: the configuration is the "
                "packaged kernel's"
            )
        yield from self.review.left_out
        for side in self.review.sides:
            name = _NAMES.get(side.vm_type, side.vm_type)
            if why := side.unknown or side.absent:
                yield f"{name}: {why}"
            for reason, number in side.not_run.items():
                yield f"{number} {name} scenario{'s' * (number != 1)}: {reason}"
        if not self.review.sides:
            yield "every scenario: there was nothing to boot"

    def _wrap(self, text: str, lead: str = "", following: str = "") -> list[str]:
        return textwrap.wrap(
            _ascii(text) if self.width == WIDTH else text,
            self.width,
            initial_indent=lead,
            subsequent_indent=following,
            break_on_hyphens=False,
        ) or [lead]


def _heading(text: str) -> Iterator[str]:
    yield ""
    yield text
    yield "-" * len(text)


def _alike(differences: Sequence[Difference]) -> list[list[Difference]]:
    """Group what changed in the same way, so that a reader meets each change once."""
    groups: dict[object, list[Difference]] = {}
    for each in differences:
        logs = (each.before.log, each.after.log)
        key = (each.before.words, each.after.words, logs, each.why)
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _cell(cell: Cell) -> str:
    words = f"{cell.words}: {cell.reason}" if cell.reason else cell.words
    verdict = {"kept": " (as promised)", "broken": " (not as promised)"}
    return words + verdict.get(cell.contract, "")


def _shown_log(cell: Cell) -> list[str]:
    """Return what the kernel said, if it said something against itself: else it is noise."""
    if not cell.log and cell.steps:
        return []
    told = [line for line in cell.log_lines if not _DETAIL.match(line)]
    left_out = len(told) - _LOG_LINES
    lines = told[:_LOG_LINES]
    return [*lines, f"... {left_out} more lines"] if left_out > 0 else lines


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
