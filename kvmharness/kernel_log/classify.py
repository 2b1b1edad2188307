# SPDX-License-Identifier: MIT
"""From lines of the kernel's log to findings: what of it fails a test, in the contract's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvmharness.kernel_log import taint, vocabulary
from kvmharness.kernel_log.log import KernelLine
from kvmharness.kernel_log.vocabulary import Denied, Vocabulary

#: KERN_ERR: a line as grave as this is a finding, whatever it says.
_ERROR = 3
#: LOG_USER, which is what a process gets that names no facility; above are daemons.
_LAST_FACILITY = 1
#: For how long after its first line a report may go on, in seconds.
_REPORT_TIME = 2.0


@dataclass(frozen=True)
class Finding:
    """Something that the kernel says against itself.

    `text` is what a contract can promise (``WARNING kvm_gmem_populate``), `line` what was logged.
    """

    text: str
    line: str
    kind: Denied | None = None

    def is_expected(self, patterns: Iterable[re.Pattern[str]]) -> bool:
        """Whether one of `patterns` is found in the text or in the line."""
        return any(each.search(self.text) or each.search(self.line) for each in patterns)


def findings(
    lines: Sequence[KernelLine],
    tainted: int = 0,
    *,
    allowed: Iterable[re.Pattern[str]] = (),
    words: Vocabulary | None = None,
) -> list[Finding]:
    """Return what `lines` say against the kernel, and what of `tainted` they don't explain.

    `tainted` holds the bits of the taint that were set meanwhile; `allowed` are patterns of lines
    that don't count, besides those of the vocabulary.
    """
    told = [line for line in lines if line.text and not line.own]
    if not told and not tainted:
        return []
    words = words or vocabulary.load()
    passed = [*allowed, *(each.pattern for each in words.allow if not each.beside)]
    found: list[Finding] = []
    report = _Report()
    for line in told:
        if any(pattern.search(line.text) for pattern in passed):
            report.goes_on(line)
            continue
        finding = _in_vocabulary(line, words.deny)
        if finding is not None:
            found.append(finding)
            report.begins(line, finding)
        elif _is_grave(line) and not report.goes_on(line):
            found.append(Finding(f"level {line.level}: {line.text}", line.text))
        else:
            report.goes_on(line)
    found = _without_companions(found, words)
    explained = {letter for each in found if each.kind for letter in each.kind.taint}
    unexplained = [letter for letter in taint.letters(tainted) if letter not in explained]
    return found + [Finding(f"taint {each}", f"the kernel's taint: {each}") for each in unexplained]


class _Report:
    """The report that is being printed, if one is: its lines are no findings of their own."""

    def __init__(self) -> None:
        self._until: re.Pattern[str] | None = None
        self._began = 0.0

    def begins(self, line: KernelLine, finding: Finding) -> None:
        """Take the first line of a report."""
        assert finding.kind is not None
        self._until = finding.kind.until
        self._began = line.seconds

    def goes_on(self, line: KernelLine) -> bool:
        """Whether `line` belongs to it, as its last one perhaps."""
        if self._until is None or not 0 <= line.seconds - self._began <= _REPORT_TIME:
            return False
        if self._until.search(line.text):
            self._until = None
        return True


def _in_vocabulary(line: KernelLine, deny: Iterable[Denied]) -> Finding | None:
    for kind in deny:
        if text := kind.text(line.text):
            return Finding(text, line.text, kind)
    return None


def _is_grave(line: KernelLine) -> bool:
    # A console tells neither.
    if line.level is None or line.facility is None:
        return False
    return line.level <= _ERROR and line.facility <= _LAST_FACILITY


def _without_companions(found: list[Finding], words: Vocabulary) -> list[Finding]:
    """Leave out what is allowed beside another report."""
    names = {each.kind.name for each in found if each.kind}
    beside = [each.pattern for each in words.allow if each.beside in names]
    return [each for each in found if not any(pattern.search(each.line) for pattern in beside)]


def texts(found: Iterable[Finding]) -> list[str]:
    """Return the findings as the contract has them."""
    return [each.text for each in found]
