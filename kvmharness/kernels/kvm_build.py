# SPDX-License-Identifier: MIT
"""KVM's modules built out of the packaged kernel's source, with patches or another configuration.

kvm.ko, kvm-amd.ko and kvm-intel.ko are built together, since they share structures, against the
kernel's packaged headers; all else is the packaged kernel's. kvm-intel.ko has TDX on where the
stand-in serves that kernel. Warnings are errors (CONFIG_KVM_WERROR), as KVM's maintainers ask.

The unchanged source is built first, once for each kernel, and its objects are kept: a patch then
costs what it makes make(1) build again. What that source can't do is no patch's fault.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmharness import host_kinds, progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache, kernels, modulebuild
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.kvm_source import kvm_source
from kvmharness.kernels.modulebuild import BuildRoot
from kvmharness.kernels.patch_tool import Applied, apply
from kvmharness.kernels.patches import Patch
from kvmharness.kernels.series import Series
from kvmharness.kernels.tdx_build import TdxParts
from kvmharness.release import parse_series

#: What is built, in this order.
MODULES = ("kvm", "kvm-amd", "kvm-intel")
#: What each variant that is built so switches on.
SYMBOLS: Mapping[str, tuple[str, ...]] = {
    "": (),
    "sw-protected": ("CONFIG_KVM_SW_PROTECTED_VM",),
}
#: Changed when the way they are built changes.
_RECIPE = "1"
# Debug information is taken out of a module anyway, and a fifth of the time to compile.
_FLAGS = "-g0"
_KVM_SYMVERS = "/build/kvm.symvers"
_FACTS = "facts.json"
#: What nobody used for so long is removed, in seconds.
_KEPT = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Built:
    """KVM's modules as they were built. `fuzz`: for each patch, what patch(1) had to guess."""

    modules: Mapping[str, Path]
    fuzz: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What to build KVM's modules of: a packaged kernel, a variant of its configuration."""

    kernel: Kernel
    variant: str
    tdx: TdxParts | None  # None: the stand-in does not serve that kernel

    @classmethod
    def of(cls, kernel: Kernel, variant: str = "") -> Plan:
        """Return the plan. Raises MissingCapability for a kernel they can't be built for."""
        if kernel.tree is not None:
            raise MissingCapability(
                f"kernel {kernel.tree}", "it is a build tree: change, configure and build it there"
            )
        if not kernel.headers:
            raise MissingCapability(
                f"kernel {kernel.release}", "the headers to build its modules with are not packaged"
            )
        kinds = (kind for kind in host_kinds.EMULATED.values() if "kvm-intel" in kind.rebuilt)
        served = [kind for kind in kinds if parse_series(kernel.release) >= kind.oldest]
        return cls(kernel, variant, TdxParts.of(modulebuild.standin(served[0])) if served else None)

    @property
    def directory(self) -> Path:
        """Where in the cache what is built is kept."""
        return kernels.directory_of(self.kernel.release) / "built"

    def key(self, patches: Sequence[Patch]) -> str:
        """Return a hash of all that goes into the modules, 16 hexadecimal digits."""
        total = hashlib.sha256(f"{_RECIPE}\0{self.variant}\0{self.kernel.origin}\0".encode())
        total.update((self.tdx.digest() if self.tdx else "").encode())
        for patch in patches:
            total.update(b"\0" + patch.text.encode("utf-8", "surrogateescape"))
        return total.hexdigest()[:16]

    def find(self, patches: Sequence[Patch]) -> Built | None:
        """Return what is in the cache of it."""
        return _load(self.directory / f"kvm-{self.key(patches)}")

    @contextmanager
    def workshop(self) -> Iterator[Workshop]:
        """Give a place where the unchanged source is built, to apply patches and build more."""
        source = kvm_source(self.kernel)
        with cache.staging("kvm") as stage:
            root = BuildRoot.for_kernel(self.kernel, stage)
            (root.path / "build").mkdir(exist_ok=True)
            if self.tdx:
                self.tdx.install(root)
            shop = Workshop(self, root)
            objects = self.directory / f"kvm-objects-{self.key(())}"
            with cache.locked(f"build-{self.kernel.release}-kvm"):
                if objects.exists():
                    objects.touch()
                    root.add_source(objects)
                else:
                    root.add_source(source)
                    words = f"building KVM's modules for {self.kernel.label}, unchanged"
                    with progress.step(words):
                        shop.make()
                    shop.keep_objects(stage / "objects", objects)
            yield shop


@dataclass
class Workshop:
    """A build root with KVM's source and objects. Patches are applied one upon the other."""

    plan: Plan
    root: BuildRoot
    patches: list[Patch] = field(default_factory=list)
    fuzz: list[tuple[str, ...]] = field(default_factory=list)

    def apply(self, patch: Patch) -> Applied:
        """Apply a patch. Raises DoesNotApply, and is of no more use then."""
        applied = apply(patch, self.root.common, self.plan.kernel.release)
        self.patches.append(patch)
        self.fuzz.append(applied.fuzz)
        return applied

    def build(self) -> Built:
        """Return the modules of the source as it is now, kept in the cache. Raises BuildFailed."""
        if (found := self.plan.find(self.patches)) is not None:
            return found
        self.make()
        made = self.root.path / "built"
        made.mkdir()
        for name in MODULES:
            # A copy: the next build may write into the file.
            shutil.copy(self.root.module(name), made)
            self.root.stripped(made / f"{name}.ko")
        (made / _FACTS).write_text(json.dumps({"fuzz": self.fuzz}))
        final = self.plan.directory / f"kvm-{self.plan.key(self.patches)}"
        cache.publish(made, final)
        _sweep(self.plan.directory)
        built = _load(final)
        assert built is not None
        return built

    def make(self) -> None:
        """Build all modules, of them what has changed. Raises BuildFailed."""
        symbols = SYMBOLS[self.plan.variant]
        flags = " ".join([_FLAGS, *(f"-D{symbol}=1" for symbol in symbols)])
        always = [f"-j{os.cpu_count() or 1}", "CONFIG_KVM_WERROR=y", *(f"{s}=y" for s in symbols)]
        self.root.make(
            self.root.kvm, "kvm.ko, kvm-amd.ko", *always, "CONFIG_KVM_INTEL=", f"KCFLAGS={flags}"
        )
        # The next make, which builds kvm-intel.ko alone, writes another one.
        symvers = self.root.common / "arch/x86/kvm/Module.symvers"
        (self.root.path / _KVM_SYMVERS[1:]).write_bytes(symvers.read_bytes())
        if self.plan.tdx:
            more = self.plan.tdx.make_arguments(_KVM_SYMVERS, flags)
        else:
            more = [f"KCFLAGS={flags}", f"KBUILD_EXTRA_SYMBOLS={_KVM_SYMVERS}"]
        alone = ["CONFIG_KVM_X86=", "CONFIG_KVM_AMD="]
        self.root.make(self.root.kvm, "kvm-intel.ko", *always, *alone, *more)

    def keep_objects(self, stage: Path, final: Path) -> None:
        """Publish source and objects as they are, for workshops to come."""
        for part in ("arch/x86/kvm", "virt/kvm"):
            shutil.copytree(self.root.common / part, stage / part)
        cache.publish(stage, final)


def changed(kernel: Kernel, series: Series | None, variant: str = "") -> Kernel:
    """Return `kernel` with KVM's modules built anew: of its source with a series, as a variant.

    Raises MissingCapability where that can't be done by modules alone or here, DoesNotApply,
    BuildFailed.
    """
    patches = series.patches if series else ()
    if series and (refused := series.refusal()):
        raise MissingCapability(series.name, refused)
    plan = Plan.of(kernel, variant)
    built = plan.find(patches)
    if built is None:
        with plan.workshop() as shop:
            for patch in patches:
                shop.apply(patch)
            words = f"building KVM's modules for {named(kernel, series, variant).label}"
            with progress.step(words):
                built = shop.build()
    return with_modules(kernel, built, series, variant)


def with_modules(kernel: Kernel, built: Built, series: Series | None, variant: str = "") -> Kernel:
    """Return `kernel` with modules that were built of its source."""
    number = len(series.patches) if series else 0
    how = [f"{number} patch{'es' * (number != 1)} ({series.digest})"] if series else []
    how += [", ".join(SYMBOLS[variant])] if variant else []
    origin = f"{kernel.origin}; KVM's modules rebuilt: {'; '.join(how)}"
    return replace(named(kernel, series, variant), replaced=built.modules, origin=origin)


def named(kernel: Kernel, series: Series | None, variant: str) -> Kernel:
    """Return `kernel` called after what is made of it."""
    changes = (f"+{series.name}" if series else "") + (f":{variant}" if variant else "")
    return replace(kernel, changes=changes)


def _load(directory: Path) -> Built | None:
    try:
        facts = json.loads((directory / _FACTS).read_text())
    except FileNotFoundError:
        return None
    directory.touch()
    modules = {name: directory / f"{name}.ko" for name in MODULES}
    return Built(modules, tuple(tuple(fuzz) for fuzz in facts["fuzz"]))


def _sweep(directory: Path) -> None:
    for path in directory.glob("kvm-*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _KEPT:
            shutil.rmtree(path, ignore_errors=True)
