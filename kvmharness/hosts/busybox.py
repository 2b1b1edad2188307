# SPDX-License-Identifier: MIT
"""The busybox of emulated hosts: their init's shell, mount and insmod, in one static program."""

from __future__ import annotations

from pathlib import Path

from kvmharness.kernels import cache, packages


def find() -> Path:
    """Return Debian's static busybox in the cache, fetched if needed. Raises PackageUnavailable."""
    final = cache.cache_dir() / "roots" / "busybox"
    if not final.exists():
        with cache.locked("busybox"):
            if not final.exists():
                (deb,) = packages.fetch(["busybox-static"], suite=packages.TOOLS_SUITE)
                with cache.staging("busybox") as directory:
                    packages.extract(deb, directory, lambda path: path.endswith("bin/busybox"))
                    cache.publish(next(directory.rglob("busybox")), final)
                packages.forget([deb])
    return final
