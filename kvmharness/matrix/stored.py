# SPDX-License-Identifier: MIT
"""Cells kept in the cache directory: what a kernel did, for the code that watched it do so.

Emulated hosts alone: the same kernel, stand-in and code give the same there. A machine of one's own
changes behind our back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from functools import cache as memoized
from pathlib import Path

from kvmharness.kernels import cache
from kvmharness.matrix.model import NOT_OUTCOMES, SKIP, Cell

_PACKAGE = Path(__file__).resolve().parents[1]
#: What has a say in an outcome: the binding and its wrappers, the scenarios, how a host boots.
SOURCES = (
    *("*.py", "*.so", "kvm/*.py", "launch/*.py", "measure/*.py", "machine/*.py"),
    *("scenarios/*.py", "standins/*.py", "hosts/*.py", "matrix/observe.py", "suite/held.py"),
    *("kernel_log/*.py", "kernel_log/*.toml"),
)
#: Entries that nobody wrote or read for so long are removed, in seconds.
_KEPT = 30 * 24 * 3600.0


@memoized
def code_version() -> str:
    """Return a digest of the code that an outcome depends on."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class Stored:
    """The cells of one kernel and VM type. `identity` is all that they depend on but the code."""

    def __init__(self, identity: str) -> None:
        self._directory = cache.cache_dir() / "matrix"
        self._path = self._directory / cache.entry_name(f"{identity}-{code_version()}.json")

    def read(self) -> dict[str, Cell]:
        """Return what is there; a damaged file is nothing."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            cells = {name: Cell.from_json(value) for name, value in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        with contextlib.suppress(OSError):
            self._path.touch()
        return cells

    def add(self, cells: Mapping[str, Cell]) -> None:
        """Keep `cells` beside what is there. A crash or a hang is not kept: it is tried again."""
        kept = {
            name: cell
            for name, cell in cells.items()
            if cell.result == SKIP or cell.result not in NOT_OUTCOMES
        }
        if not kept:
            return
        with cache.locked(self._path.name), cache.staging("matrix") as directory:
            values = {name: cell.as_json() for name, cell in (self.read() | kept).items()}
            (directory / "cells").write_text(json.dumps(values), encoding="utf-8")
            cache.publish(directory / "cells", self._path)
        self._sweep()

    def _sweep(self) -> None:
        for path in self._directory.glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEPT:
                    path.unlink()
