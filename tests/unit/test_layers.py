# SPDX-License-Identifier: MIT
"""Imports run one way: a room imports from rooms below its own only. LAYERS is the list of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import kvmharness

PACKAGE = Path(kvmharness.__file__).parent

#: The rooms from top to bottom. Those of one line do not know one another.
LAYERS = (
    "cli",
    "commands",
    "review",
    "matrix",
    "suite | probe | bench",
    "hosts | contract",
    "scenarios",
    "machine | standins",
    "launch | measure | coverage",
    "kernels | kvm",
    "report | kernel_log",
    "ground",
)

#: Modules that stand in no directory, by the room they belong to.
OUTSIDE = {"__main__": "cli", "_kvm": "kvm"} | dict.fromkeys(
    (
        *(
            "__init__",
            "closing",
            "errors",
            "exit_status",
            "host_kinds",
            "labels",
            "process",
            "progress",
            "record",
        ),
        *("release", "resources", "selection"),
    ),
    "ground",
)

LEVEL = {room: level for level, line in enumerate(LAYERS) for room in line.split(" | ")}


def room_of(module: str) -> str:
    """Return the room of a module, by its name below the package."""
    head = module.split(".")[0]
    return OUTSIDE.get(head, head)


def imports(path: Path) -> Iterator[str]:
    """Yield the package's modules that a file imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("kvmharness."):
                own = name.removeprefix("kvmharness.")
                # A public name of the package counts as an import of where it is at home.
                yield kvmharness._HOME.get(own, own)


def modules() -> dict[str, Path]:
    """Return every file of the package, by module name. The suite and the images are no modules."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.startswith(("_suite", "_images")):
            found[name] = path
    return found


def upward(module: str, imported: str) -> bool:
    """Whether an import runs up, or sideways into another room of the same line."""
    here, there = room_of(module), room_of(imported)
    return here != there and LEVEL[there] <= LEVEL[here]


def test_each_module_is_in_a_room_that_is_listed() -> None:
    assert {room_of(module) for module in modules()} == set(LEVEL)


def test_imports_run_down() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules().items()
        # The package's own names come from everywhere, when they are first used.
        if module != "__init__"
        for imported in imports(path)
        if imported != "__version__" and upward(module, imported)
    ]
    assert wrong == []


def test_an_import_that_runs_up_is_seen() -> None:
    assert upward("kvm.vm", "machine.builder")
    assert upward("kvm.vm", "kernels.cache")
    assert upward("errors", "kvm.result")
    assert not upward("kvm.vm", "kvm.vcpu")
    assert not upward("cli", "errors")
