# SPDX-License-Identifier: MIT
"""A kernel ready to boot, from how it is named: the packaged one, and what was asked of it."""

from __future__ import annotations

from kvmharness.errors import MissingCapability
from kvmharness.kernels import kernels
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.spec import Spec


def get(spec: Spec, *, update: bool = False) -> Kernel:
    """Return the kernel, fetched, and built where it has to be, if it is not cached.

    `update`: take the newest of a series, also where the cache has one. Raises MissingCapability
    with the reason, BuildFailed.
    """
    ready = kernels.get(spec.base, update=update)
    if spec.patches or spec.variant:
        raise MissingCapability(f"kernel {spec}", "patches and variants can't be built yet")
    return ready
