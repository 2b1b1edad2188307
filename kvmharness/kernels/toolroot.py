# SPDX-License-Identifier: MIT
"""Directories of programs with all their libraries, unpacked from Debian packages and run in place.

A program newer than the machine's C library runs from such a directory with the directory's own
dynamic loader, without a chroot and without being root.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness import progress
from kvmharness.kernels import cache, packages

_MULTIARCH = "usr/lib/x86_64-linux-gnu"
# Named by the kernel's and the linker's absolute paths; a merged-usr system links them at its top.
_TOP_LINKS = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True)
class ToolRoot:
    """An unpacked directory below the cache: `path` looks like a system's root."""

    path: Path
    versions: dict[str, str]  # package name to version

    def argv(self, program: str) -> list[str]:
        """Return the start of a command line that runs `program` (``usr/bin/...``) in place."""
        loader = self.path / "usr/lib64/ld-linux-x86-64.so.2"
        libraries = self.path / _MULTIARCH
        return [
            str(loader),
            "--library-path",
            str(libraries),
            "--argv0",
            Path(program).name,
            str(self.path / program),
        ]


def tool_root(
    name: str,
    wanted: Sequence[str],
    suite: str,
    keep: Callable[[str], bool] | None = None,
    finish: Callable[[Path], None] | None = None,
    recipe: str = "",
) -> ToolRoot:
    """Return the directory called `name` with `wanted` and all they need, made if it is not cached.

    `keep` chooses files by path, `finish` completes the unpacked directory; `recipe` names their
    version, so that a changed one makes a new directory. Raises PackageUnavailable.
    """
    key = hashlib.sha256(json.dumps([list(wanted), suite, recipe]).encode()).hexdigest()[:12]
    final = cache.cache_dir() / "roots" / f"{name}-{key}"
    stamp = final / ".kvmharness.json"
    if not stamp.exists():
        # One lock for all: they share the packages fetched, which go once they are unpacked.
        with cache.locked("tool-roots"):
            if not stamp.exists():
                _make(final, wanted, suite, keep, finish)
    return ToolRoot(final, json.loads(stamp.read_text()))


def _make(
    final: Path,
    wanted: Sequence[str],
    suite: str,
    keep: Callable[[str], bool] | None,
    finish: Callable[[Path], None] | None,
) -> None:
    debs = packages.fetch(wanted, suite=suite, dependencies=True)
    with cache.staging("root") as directory:
        root = directory / "root"
        with progress.step(f"unpacking {wanted[0]} and what it needs") as report:
            for done, deb in enumerate(debs):
                packages.extract(deb, root, keep)
                report(done / len(debs))
        for link in _TOP_LINKS:
            if not (root / link).exists():
                (root / link).symlink_to(f"usr/{link}")
        if finish is not None:
            finish(root)
        fields = [deb.stem.split("_") for deb in debs]
        versions = {name: version.replace("%3a", ":") for name, version, *_ in fields}
        (root / ".kvmharness.json").write_text(json.dumps(versions, indent=1, sort_keys=True))
        cache.publish(root, final)
    packages.forget(debs)
