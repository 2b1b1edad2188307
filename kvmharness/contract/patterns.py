# SPDX-License-Identifier: MIT
"""Patterns of scenarios' ids: ``snp.type.{unmeasured,secrets}.unaligned*``, ``!`` for all but."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_PART = re.compile(r"(\*|\?|\{[^{}]*\})")


class BadPattern(ValueError):
    """A pattern that means nothing: an unclosed brace, excludes alone."""


@dataclass(frozen=True)
class Patterns:
    """Some patterns of ids, and some (with a leading ``!``) of ids that are not meant after all.

    ``*`` and ``?`` are any characters and any one, dots too; ``{a,b}`` is a or b.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        _ = self._excluded  # a bad pattern is an error now, not when it is first used
        if not self.included:
            raise BadPattern("no pattern that means a scenario")

    def __str__(self) -> str:
        return ", ".join(self.texts)

    def mean(self, scenario_id: str) -> bool:
        """Whether the patterns mean this scenario."""
        return any(each.fullmatch(scenario_id) for _, each in self.included) and not any(
            each.fullmatch(scenario_id) for _, each in self._excluded
        )

    def meaning_nothing(self, ids: Sequence[str]) -> list[str]:
        """Return the patterns, excludes too, that match none of `ids`."""
        return [
            text
            for text, pattern in (*self.included, *self._excluded)
            if not any(pattern.fullmatch(each) for each in ids)
        ]

    @cached_property
    def included(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        """The patterns of what is meant, as given and compiled."""
        return tuple((text, _compile(text)) for text in self.texts if not text.startswith("!"))

    @cached_property
    def _excluded(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        return tuple((text, _compile(text[1:])) for text in self.texts if text.startswith("!"))


def _compile(text: str) -> re.Pattern[str]:
    parts = []
    for part in _PART.split(text):
        if part == "*":
            parts.append(".*")
        elif part == "?":
            parts.append(".")
        elif part.startswith("{") and part.endswith("}"):
            parts.append(f"(?:{'|'.join(re.escape(each) for each in part[1:-1].split(','))})")
        elif "{" in part or "}" in part:
            raise BadPattern(f"a brace that is not closed, or inside another, in {text!r}")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))
