# SPDX-License-Identifier: MIT
"""What in the kernel's log fails a test and what does not, as splats.toml has it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kvmharness.errors import HarnessError

_FILE = Path(__file__).with_name("splats.toml")


class VocabularyError(HarnessError):
    """An entry of splats.toml is malformed."""


@dataclass(frozen=True)
class Denied:
    """A kind of report: `name` and what the pattern's group `what` matched are the contract's text.

    `until` is the report's last line, where it has one; `taint` the letters that come with it.
    """

    name: str
    pattern: re.Pattern[str]
    until: re.Pattern[str] | None = None
    taint: str = ""

    def text(self, line: str) -> str | None:
        """Return the contract's text for `line`, None if it is no such report."""
        match = self.pattern.search(line)
        if match is None:
            return None
        what = match.groupdict().get("what")
        return f"{self.name} {what}" if what else self.name


@dataclass(frozen=True)
class Allowed:
    """A line that says nothing against the kernel; `beside`: only where that was reported too."""

    pattern: re.Pattern[str]
    reason: str
    remove: str
    beside: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """Both lists."""

    deny: tuple[Denied, ...]
    allow: tuple[Allowed, ...]


@cache
def load(path: Path = _FILE) -> Vocabulary:
    """Read the lists. Raises VocabularyError naming the entry that is wrong."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return Vocabulary(
        tuple(_denied(entry) for entry in tables.get("deny", ())),
        tuple(_allowed(entry) for entry in tables.get("allow", ())),
    )


def _denied(entry: dict[str, Any]) -> Denied:
    _check(entry, {"name", "pattern"}, {"until", "taint"})
    until = entry.get("until")
    return Denied(
        entry["name"],
        compiled(entry["pattern"]),
        compiled(until) if until else None,
        entry.get("taint", ""),
    )


def _allowed(entry: dict[str, Any]) -> Allowed:
    _check(entry, {"pattern", "reason", "remove"}, {"with"})
    return Allowed(
        compiled(entry["pattern"]), entry["reason"], entry["remove"], entry.get("with", "")
    )


def _check(entry: dict[str, Any], wanted: set[str], optional: set[str]) -> None:
    if missing := wanted - entry.keys():
        raise VocabularyError(f"splats.toml: {entry} has no {sorted(missing)[0]!r}")
    if unknown := entry.keys() - wanted - optional:
        raise VocabularyError(f"splats.toml: unknown key {sorted(unknown)[0]!r} in {entry}")


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern. Raises VocabularyError where it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise VocabularyError(f"not a regular expression: {pattern!r}: {error}") from None
