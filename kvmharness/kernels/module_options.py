# SPDX-License-Identifier: MIT
"""Options for the modules that an emulated host loads, in the kernel's own form: ``kvm.tdp_mmu=0``.

A module takes any option it is loaded with, and of one that it doesn't know only its log tells: a
name that is spelled wrong would be a kernel that is tested as it always is. So a name is looked for
in the module itself, which says what parameters it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.kernels.elf import Module

_OPTION = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_]+)=(\S*)")


def parse(given: Iterable[str]) -> tuple[str, ...]:
    """Return the options in what was given, each ``MODULE.NAME=VALUE``; a text may hold several.

    They are separated by blanks. Raises UsageError, in one line.
    """
    options: list[str] = []
    for text in given:
        found = text.split()
        if not found or not all(map(_OPTION.fullmatch, found)):
            raise UsageError(
                f"module option {text!r}: give MODULE.NAME=VALUE, such as kvm.tdp_mmu=0"
            )
        options += found
    return tuple(options)


def resolve(options: Sequence[str], modules: Mapping[str, Path]) -> dict[str, str]:
    """Return what to load each module with: its name, as in `modules`, to its options.

    `options`: as parse() returns them. `modules`: the files of those that are loaded, by name. An
    option for another module, or one that its module doesn't have, is a UsageError that says which
    there are.
    """
    names = {name.replace("-", "_"): name for name in modules}
    resolved: dict[str, str] = {}
    for option in options:
        match = _OPTION.fullmatch(option)
        assert match is not None
        name = names.get(match[1].replace("-", "_"))
        if name is None:
            raise UsageError(
                f"module option {option}: no module {match[1]} is loaded there; "
                f"there are: {', '.join(sorted(names))}"
            )
        known = Module(modules[name].read_bytes()).parameters()
        if match[2] not in known:
            there = f"it has: {', '.join(known)}" if known else "it has none"
            raise UsageError(
                f"module option {option}: {match[1]} has no parameter {match[2]}; {there}"
            )
        setting = f"{match[2]}={match[3]}"
        resolved[name] = f"{resolved[name]} {setting}" if name in resolved else setting
    return resolved
