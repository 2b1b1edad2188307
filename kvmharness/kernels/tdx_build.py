# SPDX-License-Identifier: MIT
"""kvm-intel.ko with TDX, for a packaged kernel that is built without it.

It is compiled from the unmodified arch/x86/kvm of the kernel's own source package against the
kernel's headers, with CONFIG_KVM_INTEL_TDX and CONFIG_INTEL_TDX_HOST on; the kernel and kvm.ko stay
as packaged. The functions that such a kernel would have, tdh_*(), are the stand-in's
(vm_images/emulated_host/tdx_standin/README.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache, kernels, packages
from kvmharness.kernels.modulebuild import BuildFailed, BuildRoot, ModuleSource

_KVM = "arch/x86/kvm"
_FIXUP = "kvm_intel_fixup.h"
#: Changed when the way it is built changes.
_RECIPE = "1"


def build_kvm_intel(standin: ModuleSource, kernel: kernels.Kernel) -> Path:
    """Return kvm-intel.ko for `kernel`, from the cache if nothing that goes into it has changed.

    `kernel` is a packaged one, with its headers. Raises MissingCapability where its source can't be
    had, BuildFailed.
    """
    directory = kernels.directory_of(kernel.release)
    symbols = _exported(standin)
    key = hashlib.sha256((_RECIPE + symbols + _fixup(standin)).encode()).hexdigest()[:16]
    final = directory / "built" / f"kvm-intel-tdx-{key}.ko"
    if not final.exists():
        with cache.locked(f"build-{kernel.release}-kvm-intel"):
            if not final.exists():
                source = _source(kernel, directory / "kvm-source")
                _build(kernel, source, symbols, _fixup(standin), final)
    return final


def _build(kernel: kernels.Kernel, source: Path, symbols: str, fixup: str, final: Path) -> None:
    with cache.staging("kvm-intel") as stage:
        with progress.step(f"building kvm-intel.ko with TDX for {kernel.release}"):
            root = BuildRoot.for_kernel(kernel, stage)
            work = root.path / "build"
            shutil.copytree(source, work / "kvm")
            (work / "standin.symvers").write_text(symbols)
            (work / _FIXUP).write_text(fixup)
            # The Makefile includes it for kvm.ko's part of it, which is not built.
            included = root.common / "virt/kvm/Makefile.kvm"
            included.parent.mkdir(parents=True, exist_ok=True)
            included.touch()
            root.make(
                "/build/kvm",
                "kvm-intel.ko",
                f"-j{os.cpu_count() or 1}",
                "CONFIG_KVM_X86=",  # no kvm.ko
                "CONFIG_KVM_AMD=",
                "CONFIG_KVM_INTEL_TDX=y",
                "CONFIG_INTEL_TDX_HOST=y",
                "KBUILD_EXTRA_SYMBOLS=/build/standin.symvers",
                "KCFLAGS=-I/build/kvm -DCONFIG_KVM_INTEL_TDX=1 -DCONFIG_INTEL_TDX_HOST=1",
                f"CFLAGS_vmx/tdx.o=-include /build/{_FIXUP}",
            )
            made = root.stripped(work / "kvm/kvm-intel.ko")
        cache.publish(made, final)


def _fixup(standin: ModuleSource) -> str:
    return (standin.directory / _FIXUP).read_text()


def _exported(standin: ModuleSource) -> str:
    """Return the stand-in's exports as Module.symvers has them: CRC, name, module, how, namespace.

    Written here and not taken from its build, so that a changed stand-in does not rebuild KVM.
    """
    text = "".join(path.read_text() for path in sorted(standin.directory.glob("*.c")))
    names = re.findall(r"^EXPORT_SYMBOL_GPL\((\w+)\);", text, re.MULTILINE)
    return "".join(f"0x00000000\t{name}\t{standin.name}\tEXPORT_SYMBOL_GPL\t\n" for name in names)


def _source(kernel: kernels.Kernel, final: Path) -> Path:
    """Return a directory with the kernel's arch/x86/kvm, out of its source package."""
    if final.exists():
        return final
    facts = json.loads((kernels.directory_of(kernel.release) / "facts.json").read_text())
    series = kernels.series_of(kernel.release)
    wanted = f"linux-source-{series}={facts['version']}"
    try:
        debs = packages.fetch([wanted], suite=facts["suite"])
    except packages.PackageUnavailable as failure:
        raise MissingCapability(
            f"TDX on {kernel.release}",
            f"{failure}; `kvmharness host prepare` with --update takes a newer release",
        ) from failure
    with cache.staging("source") as stage:
        with progress.step(f"unpacking KVM's source out of {debs[0].name}"):
            packages.extract(debs[0], stage, lambda path: path.endswith(".tar.xz"))
            (archive,) = stage.rglob("*.tar.xz")
            _unpack_directory(archive, _KVM, stage / "kvm")
        cache.publish(stage / "kvm", final)
    packages.forget(debs)
    return final


def _unpack_directory(archive: Path, directory: str, dest: Path) -> None:
    """Unpack one directory of a source archive, and stop reading at its end."""
    found = False
    with tarfile.open(archive, "r|xz") as stream:
        for member in stream:
            # linux-source-7.3/arch/x86/kvm/vmx/tdx.c
            path = member.name.removeprefix("./").partition("/")[2]
            if not path.startswith(directory + "/"):
                if found:
                    return
                continue
            found = True
            content = stream.extractfile(member) if member.isfile() else None
            if content is not None:
                target = dest / Path(path).relative_to(directory)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    if not found:
        raise BuildFailed(f"{archive.name} has no {directory}")
