# SPDX-License-Identifier: MIT
"""The functions of KVM whose coverage is told, as interest.toml has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("interest.toml")


@dataclass(frozen=True)
class Group:
    """Functions that belong together: a module as the kernel names it, patterns of their names."""

    name: str
    module: str
    source: str  # the file of the kernel's source that they are in
    functions: tuple[str, ...]
    excepted: tuple[str, ...]

    def wants(self, function: str) -> bool:
        """Whether a function of the module, by its name in the source, is of the group."""
        return _any(self.functions, function) and not _any(self.excepted, function)


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@cache
def groups() -> tuple[Group, ...]:
    """Return the groups, in the order in which they are shown."""
    read = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Group(
            each["name"],
            each["module"],
            each["source"],
            tuple(each["functions"]),
            tuple(each.get("except", ())),
        )
        for each in read["group"]
    )
