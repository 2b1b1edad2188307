# SPDX-License-Identifier: MIT
"""Objects of KVM's modules compiled anew, with debug information, for a packaged kernel.

They are compiled of its own source, by the compiler and against the headers that it was built with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from posixpath import relpath

from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.kvm_source import kvm_source
from kvmharness.kernels.modulebuild import BuildRoot
from kvmharness.kernels.tdx_build import TdxParts

_FLAGS = "-g"


def build(kernel: Kernel, sources: Sequence[str], tdx: TdxParts | None) -> list[bytes]:
    """Return the object of each source file, named from the kernel tree's top.

    `tdx`: for a module that was built with TDX on. Raises MissingCapability where the source can't
    be had, BuildFailed.
    """
    if not kernel.headers:
        raise MissingCapability(
            f"kernel {kernel.release}", "the headers to compile it against are not packaged"
        )
    with cache.staging("objects") as stage:
        root = BuildRoot.for_kernel(kernel, stage)
        root.add_source(kvm_source(kernel))
        options = [f"KCFLAGS={_FLAGS}"]
        if tdx is not None:
            tdx.install(root)
            options = tdx.make_arguments(flags=_FLAGS)
        objects = [relpath(source, "arch/x86/kvm")[: -len(".c")] + ".o" for source in sources]
        jobs = f"-j{os.cpu_count() or 1}"
        root.make(root.kvm, ", ".join(objects), jobs, *options, targets=objects)
        directory = root.common / "arch/x86/kvm"
        return [(directory / name).read_bytes() for name in objects]
