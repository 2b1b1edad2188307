# SPDX-License-Identifier: MIT
"""kvm-intel.ko with TDX, for a user's tree whose kernel is built without TDX host support.

As for a packaged kernel (tdx_build.py), but out of the tree's own source, and with the user's own
make and compiler. A tree that has TDX brings its own kvm-intel.ko.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kvmharness import progress
from kvmharness.kernels import cache, kernels
from kvmharness.kernels.modulebuild import ModuleSource, make_in_tree
from kvmharness.kernels.tdx_build import TdxParts

_KVM = "arch/x86/kvm"


def build_kvm_intel(standin: ModuleSource, kernel: kernels.Kernel) -> Path:
    """Return kvm-intel.ko for a tree's `kernel`, from the cache if no source has changed.

    Raises MissingCapability where this machine can't build, BuildFailed.
    """
    assert kernel.tree is not None
    tree = kernel.tree
    # A build directory of its own (make O=) is beside the source.
    source = (tree / "source" if (tree / "source").is_dir() else tree) / _KVM
    parts = TdxParts.of(standin)
    total = hashlib.sha256(parts.digest().encode())
    for path in _sources(source):
        total.update(f"{path.relative_to(source)}".encode() + b"\0" + path.read_bytes() + b"\0")
    final = kernel.modules.parent / "built" / f"kvm-intel-tdx-{total.hexdigest()[:16]}.ko"
    if final.exists():
        return final
    with cache.locked(f"build-{kernel.release}-kvm-intel"), cache.staging("kvm-intel") as stage:
        with progress.step(f"building kvm-intel.ko with TDX for {kernel.release}"):
            work = stage / "kvm"
            for path in _sources(source):
                (work / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, work / path.relative_to(source))
            (stage / "standin.symvers").write_text(parts.symbols)
            (stage / "fixup.h").write_text(parts.fixup)
            make_in_tree(
                tree,
                work,
                "kvm-intel.ko",
                f"-j{os.cpu_count() or 1}",
                *("CONFIG_KVM_X86=", "CONFIG_KVM_AMD="),  # it alone
                *("CONFIG_KVM_INTEL=m", "CONFIG_KVM_INTEL_TDX=y", "CONFIG_INTEL_TDX_HOST=y"),
                f"KBUILD_EXTRA_SYMBOLS={stage}/standin.symvers",
                f"KCFLAGS=-I{work} -DCONFIG_KVM_INTEL_TDX=1 -DCONFIG_INTEL_TDX_HOST=1",
                f"CFLAGS_vmx/tdx.o=-include {stage}/fixup.h",
            )
        cache.publish(work / "kvm-intel.ko", final)
    return final


def _sources(directory: Path) -> Iterator[Path]:
    """Yield KVM's sources, and nothing that a build has made beside them."""
    for path in sorted(directory.rglob("*")):
        made = path.name.endswith(".mod.c")
        if (path.suffix in (".c", ".h", ".S") and not made) or path.name in ("Makefile", "Kbuild"):
            yield path
