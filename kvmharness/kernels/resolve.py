# SPDX-License-Identifier: MIT
"""A kernel ready to boot, from how it is named: the packaged one, and what was asked of it."""

from __future__ import annotations

from kvmharness.errors import MissingCapability
from kvmharness.kernels import kernels, kvm_build, own_build, series
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.spec import Spec


def get(spec: Spec, *, update: bool = False) -> Kernel:
    """Return the kernel, fetched, and built where it has to be, if it is not cached.

    `update`: take the newest of a series, also where the cache has one. Raises MissingCapability
    with the reason, UsageError for patches that can't be read, DoesNotApply, BuildFailed.
    """
    if spec.variant in own_build.VARIANTS:
        if spec.patches:
            raise MissingCapability(
                f"kernel {spec}",
                "patches go into KVM's modules of a packaged kernel (7.3+series.mbox); for a whole "
                "kernel apply them to a tree (kvmharness kernel build TREE)",
            )
        return own_build.find(spec.base, spec.variant)
    patches = series.read(spec.patches) if spec.patches else None
    ready = kernels.get(spec.base, update=update)
    if patches or spec.variant:
        return kvm_build.changed(ready, patches, spec.variant)
    return ready
