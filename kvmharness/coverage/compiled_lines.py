# SPDX-License-Identifier: MIT
"""The source lines of a packaged kernel's KVM modules, from the cache or by compiling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from kvmharness import progress
from kvmharness.coverage.lines import Lines
from kvmharness.kernels import cache, debug_objects, kernels
from kvmharness.kernels.elf import Module
from kvmharness.kernels.tdx_build import TdxParts

#: Changed when what is kept changes.
_RECIPE = "2"


def module_lines(
    kernel: kernels.Kernel, name: str, file: Path, sources: Sequence[str], tdx: TdxParts | None
) -> Lines:
    """Return the lines of the code that a module has out of these source files.

    `tdx`: for a module that was built with TDX on. Raises MissingCapability where the kernel's
    source can't be had, BuildFailed.
    """
    data = file.read_bytes()
    key = hashlib.sha256("\0".join((_RECIPE, *sources)).encode() + data).hexdigest()[:16]
    final = kernels.directory_of(kernel.release) / "built" / f"{name}-lines-{key}.json"
    with cache.locked(f"build-{kernel.release}-{name}-lines"):
        if not final.exists():
            with progress.step(f"compiling {len(sources)} files of {name}.ko for their lines"):
                objects = debug_objects.build(kernel, sources, tdx)
                lines = Lines.read(Module(data), objects)
            with cache.staging("lines") as stage:
                (stage / "lines").write_text(json.dumps(lines.as_data()), encoding="utf-8")
                cache.publish(stage / "lines", final)
    return Lines.from_data(json.loads(final.read_text(encoding="utf-8")))
