# SPDX-License-Identifier: MIT
"""KVM's source as a packaged kernel was built from it, out of the kernel's own source package."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache, kernels, packages
from kvmharness.kernels.modulebuild import BuildFailed

#: What is taken out of a kernel's source, in the order in which an archive has it. Its headers are
#: packaged apart, and are in the build root.
_DIRECTORIES = ("arch/x86/kvm", "virt/kvm")


def kvm_source(kernel: kernels.Kernel) -> Path:
    """Return a directory with KVM's part of the kernel's source tree, fetched if not cached.

    `kernel` is a packaged one. Raises MissingCapability where its source can't be had.
    """
    directory = kernels.directory_of(kernel.release)
    final = directory / "kvm-tree"
    if final.exists():
        return final
    facts = json.loads((directory / "facts.json").read_text())
    series = kernels.series_of(kernel.release)
    wanted = f"linux-source-{series}={facts['version']}"
    try:
        debs = packages.fetch([wanted], suite=facts["suite"])
    except packages.PackageUnavailable as failure:
        raise MissingCapability(
            f"KVM's source of {kernel.release}",
            f"{failure}; `kvmharness host prepare` with --update takes a newer release",
        ) from failure
    with cache.staging("source") as stage:
        with progress.step(f"unpacking KVM's source out of {debs[0].name}"):
            packages.extract(debs[0], stage, lambda path: path.endswith(".tar.xz"))
            (archive,) = stage.rglob("*.tar.xz")
            unpack_directories(archive, _DIRECTORIES, stage / "tree")
        cache.publish(stage / "tree", final)
    packages.forget(debs)
    return final


def unpack_directories(archive: Path, directories: Sequence[str], dest: Path) -> None:
    """Unpack some directories of a source archive below `dest`, in the order it has them.

    Reading stops at the last one's end: unpacking all takes half a minute. BuildFailed where one
    is missing.
    """
    left = list(directories)
    inside = False
    with tarfile.open(archive, "r|xz") as stream:
        for member in stream:
            # linux-source-7.3/arch/x86/kvm/vmx/tdx.c
            path = member.name.removeprefix("./").partition("/")[2]
            if inside and not path.startswith(left[0] + "/"):
                inside = False
                left.pop(0)
            if not left:
                return
            if not path.startswith(left[0] + "/"):
                continue
            inside = True
            content = stream.extractfile(member) if member.isfile() else None
            if content is not None:
                target = dest / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    missing = left[1:] if inside else left
    if missing:
        raise BuildFailed(f"{archive.name} has no {missing[0]}")
