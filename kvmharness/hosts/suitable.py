# SPDX-License-Identifier: MIT
"""Whether a kernel can be booted as an emulated host: one answer for probe and for prepare."""

from __future__ import annotations

from collections.abc import Mapping

from kvmharness.host_kinds import EmulatedKind
from kvmharness.kernels import config as kernel_config
from kvmharness.kernels.kernels import Kernel
from kvmharness.release import parse_series

#: What the guest's root takes: the caller's over 9p, with a memory file system above.
ROOT_MODULES = ("9p", "9pnet-virtio", "overlay")


def why_not(kind: EmulatedKind, kernel: Kernel) -> str | None:
    """Return why `kernel` can't be booted as a host of this kind; None if it can."""
    if too_old := why_not_release(kind, kernel.release):
        return too_old
    rebuilt = to_rebuild(kind, kernel)
    if rebuilt and kernel.build_directory is None and not kernel.headers:
        return f"the headers to build {', '.join(rebuilt)} with are not packaged"
    config = _config(kernel)
    if config and (lacking := kernel_config.why_not(config, kind.name)):
        return lacking
    own = tuple(name for name in kind.rebuilt if name not in rebuilt)
    for needed in (*kind.required, *own, *ROOT_MODULES):
        # A tree's own kernel may have the root's built in; what the stand-in goes between may not.
        built_in = kernel.build_directory is not None and needed in ROOT_MODULES
        if kernel.module(needed) is None and not built_in:
            return f"it has no {needed}.ko: build it as a module"
    return None


def to_rebuild(kind: EmulatedKind, kernel: Kernel) -> tuple[str, ...]:
    """Return the modules to build for such a host from the kernel's source: none that it has."""
    if _config(kernel).get(kind.own_with) == "y":
        return ()
    return tuple(name for name in kind.rebuilt if name not in kernel.replaced)


def _config(kernel: Kernel) -> Mapping[str, str]:
    """Return what a kernel that is no package was built with, nothing where that is not known."""
    directory = kernel.build_directory
    return {} if directory is None else kernel_config.of_tree(directory) or {}


def why_not_release(kind: EmulatedKind, release: str) -> str | None:
    """Return why no kernel of this release, or series, can; None where more has to be known."""
    if parse_series(release) < kind.oldest:
        oldest = ".".join(map(str, kind.oldest))
        return f"it takes kernel {oldest} or newer"
    return None
