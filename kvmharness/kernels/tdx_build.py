# SPDX-License-Identifier: MIT
"""kvm-intel.ko with TDX, for a packaged kernel that is built without it.

It is compiled from the unmodified arch/x86/kvm of the kernel's own source package against the
kernel's headers, with CONFIG_KVM_INTEL_TDX and CONFIG_INTEL_TDX_HOST on; the kernel and kvm.ko stay
as packaged. The functions that such a kernel would have, tdh_*(), are the stand-in's
(vm_images/emulated_host/tdx_standin/README.md).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kvmharness import progress
from kvmharness.kernels import cache, kernels
from kvmharness.kernels.kvm_source import kvm_source
from kvmharness.kernels.modulebuild import BuildRoot, ModuleSource

_FIXUP = "kvm_intel_fixup.h"
#: Changed when the way it is built changes.
_RECIPE = "1"


@dataclass(frozen=True)
class TdxParts:
    """What the stand-in gives to the build: its exports, and what tdx.c is compiled behind."""

    symbols: str
    fixup: str

    @classmethod
    def of(cls, standin: ModuleSource) -> TdxParts:
        """Read them out of the stand-in's source."""
        return cls(_exported(standin), (standin.directory / _FIXUP).read_text())

    def digest(self) -> str:
        """Return a hash of them, 16 hexadecimal digits."""
        return hashlib.sha256((_RECIPE + self.symbols + self.fixup).encode()).hexdigest()[:16]

    def install(self, root: BuildRoot) -> None:
        """Put them where make_arguments() says they are."""
        directory = root.path / "build"
        directory.mkdir(exist_ok=True)
        (directory / "standin.symvers").write_text(self.symbols)
        (directory / _FIXUP).write_text(self.fixup)

    def make_arguments(self, symvers: str = "", flags: str = "") -> list[str]:
        """Return what switches TDX on. `symvers`: of another kvm.ko; `flags`: the compiler's."""
        defined = "-DCONFIG_KVM_INTEL_TDX=1 -DCONFIG_INTEL_TDX_HOST=1"
        return [
            "CONFIG_KVM_INTEL_TDX=y",
            "CONFIG_INTEL_TDX_HOST=y",
            f"KBUILD_EXTRA_SYMBOLS={f'/build/standin.symvers {symvers}'.strip()}",
            f"KCFLAGS={f'{flags} {defined}'.strip()}",
            f"CFLAGS_vmx/tdx.o=-include /build/{_FIXUP}",
        ]


def build_kvm_intel(standin: ModuleSource, kernel: kernels.Kernel) -> Path:
    """Return kvm-intel.ko for `kernel`, from the cache if nothing that goes into it has changed.

    `kernel` is a packaged one, with its headers. Raises MissingCapability where its source can't be
    had, BuildFailed.
    """
    parts = TdxParts.of(standin)
    directory = kernels.directory_of(kernel.release)
    final = directory / "built" / f"kvm-intel-tdx-{parts.digest()}.ko"
    if not final.exists():
        with cache.locked(f"build-{kernel.release}-kvm-intel"):
            if not final.exists():
                _build(kernel, parts, final)
    return final


def _build(kernel: kernels.Kernel, parts: TdxParts, final: Path) -> None:
    source = kvm_source(kernel)
    with cache.staging("kvm-intel") as stage:
        with progress.step(f"building kvm-intel.ko with TDX for {kernel.release}"):
            root = BuildRoot.for_kernel(kernel, stage)
            root.add_source(source)
            parts.install(root)
            root.make(
                root.kvm,
                "kvm-intel.ko",
                f"-j{os.cpu_count() or 1}",
                "CONFIG_KVM_X86=",  # no kvm.ko
                "CONFIG_KVM_AMD=",
                *parts.make_arguments(),
            )
            made = root.stripped(root.module("kvm-intel"))
        cache.publish(made, final)


def _exported(standin: ModuleSource) -> str:
    """Return the stand-in's exports as Module.symvers has them: CRC, name, module, how, namespace.

    Written here and not taken from its build, so that a changed stand-in does not rebuild KVM.
    """
    text = "".join(path.read_text() for path in sorted(standin.directory.glob("*.c")))
    names = re.findall(r"(?:\bEACH|^EXPORT_SYMBOL_GPL)\((\w+)\)", text, re.MULTILINE)
    return "".join(f"0x00000000\t{name}\t{standin.name}\tEXPORT_SYMBOL_GPL\t\n" for name in names)
