# SPDX-License-Identifier: MIT
"""Modules that the user built, in place of a kernel's own: ``kvm=arch/x86/kvm/kvm.ko``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from kvmharness.errors import UsageError
from kvmharness.kernels.elf import BadModule, Module
from kvmharness.kernels.kernels import Kernel


def parse(given: Iterable[str]) -> dict[str, Path]:
    """Return the files by module name, as in ``kvm-amd``. Raises UsageError, in one line."""
    modules: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not name or not equals or not path:
            raise UsageError(f"module {text!r}: give NAME=PATH, such as kvm=arch/x86/kvm/kvm.ko")
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise UsageError(f"module {name}: no such file: {path}")
        modules[name.replace("_", "-")] = file
    return modules


def put_into(kernel: Kernel, modules: Mapping[str, Path], loaded: Mapping[str, Path]) -> Kernel:
    """Return `kernel` with `modules` in place of its own; its name says so.

    `loaded`: the modules that are loaded, by name. UsageError for one that is not among them, and
    for a file that is not that module or was built for another kernel.
    """
    for name, path in modules.items():
        if name not in loaded:
            raise UsageError(
                f"module {name}: none of this name is loaded there; there are: {', '.join(loaded)}"
            )
        theirs = _modinfo(loaded[name]).get("vermagic", "").strip()
        ours = _modinfo(path)
        if ours.get("name", "").replace("_", "-") != name:
            raise UsageError(f"module {name}: {path} is the module {ours.get('name', '?')}")
        if ours.get("vermagic", "").strip() != theirs:
            raise UsageError(
                f"module {name}: {path} is built for {ours.get('vermagic', '?').strip()}, "
                f"and the kernel's is {theirs}"
            )
    names = "".join(f"+{path.name}" for path in modules.values())
    return dataclasses.replace(
        kernel, replaced={**kernel.replaced, **modules}, changes=kernel.changes + names
    )


def _modinfo(path: Path) -> dict[str, str]:
    try:
        return Module(path.read_bytes()).modinfo()
    except BadModule as error:
        raise UsageError(f"{path} is no kernel module: {error}") from None
