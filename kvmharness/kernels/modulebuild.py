# SPDX-License-Identifier: MIT
"""Build kernel modules of ours for a kernel, in a build root that is fetched, not installed.

Debian's kernels are built by a newer gcc, and their build programs by a newer C library, than the
machine may have. The build root is a directory with that gcc, make and a shell (about 200 MB),
entered by chroot: as root in a mount namespace, otherwise in a user namespace where the machine
allows it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness import process, progress
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.host_kinds import EmulatedKind
from kvmharness.kernels import cache, kernels, packages, toolroot
from kvmharness.kernels.transplant import transplant
from kvmharness.resources import images_dir

GCC = "x86_64-linux-gnu-gcc-14"
TOOLS = (
    "gcc-14-x86-64-linux-gnu",
    "make",
    "dash",
    "coreutils",
    "sed",
    "grep",
    "mawk",
    "findutils",
    "libelf1t64",  # objtool's and modpost's
    "libssl3t64",
    "zlib1g",
    "libzstd1",
)
_DEADLINE = 600.0
#: Runs a command in the root $1, from a mount namespace of its own, out of which no mount may get.
#: Below a root that is no mount point, as a chroot's is not, nothing can be made private; below
#: /proc, which is one there too, it can.
_ENTER = """\
set -e
root=$1
shift
if ! mount --make-rprivate / 2>/dev/null; then
    mount --make-private /proc 2>/dev/null || {
        echo "error: neither / nor /proc is a mount point here; mount proc on /proc" >&2
        exit 1
    }
    mount -t tmpfs tmpfs /proc
    mkdir /proc/root
    mount --rbind "$root" /proc/root
    mount --make-rprivate /proc/root
    root=/proc/root
fi
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount --bind /dev/null "$root/dev/null"
exec chroot "$root" "$@"
"""
#: Where a kernel's headers are no longer packaged, modules are built against this series and
#: transplanted. What the stand-ins use of the kernel did not change from 6.12 to 6.19.
_DONOR_SERIES = "6.12"


class BuildFailed(HarnessError):
    """A module does not build for a kernel; the message has the compiler's last lines."""


@dataclass(frozen=True)
class ModuleSource:
    """A module's source directory: its Makefile builds ``<name>.ko``."""

    name: str
    directory: Path

    def digest(self) -> str:
        """Return a hash of the sources, 16 hexadecimal digits."""
        total = hashlib.sha256()
        for path in sorted(self.directory.iterdir()):
            if path.suffix in (".c", ".h") or path.name == "Makefile":
                total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return total.hexdigest()[:16]


def standin(kind: EmulatedKind) -> ModuleSource:
    """Return the source of the module that stands in for a kind's silicon."""
    return ModuleSource(kind.standin, images_dir() / "emulated_host" / kind.standin)


def build(source: ModuleSource, kernel: kernels.Kernel) -> Path:
    """Return the module built for `kernel`, from the cache if neither has changed.

    Raises BuildFailed, or MissingCapability where this machine can't build.
    """
    if kernel.tree is not None or kernel.own is not None:
        directory = kernel.modules.parent / "built"
    else:
        directory = kernels.directory_of(kernel.release) / "built"
    final = directory / f"{source.name}-{source.digest()}.ko"
    if final.exists():
        return final
    with cache.locked(f"build-{kernel.release}-{source.name}"):
        if not final.exists():
            _build(source, kernel, final)
    return final


def _build(source: ModuleSource, kernel: kernels.Kernel, final: Path) -> None:
    with cache.staging("module") as stage:
        with progress.step(f"building {source.name}.ko for {kernel.release}"):
            if kernel.tree is not None:
                made = _build_in_tree(source, kernel.tree, stage)
            elif kernel.headers or kernel.own is not None:
                made = _build_in_root(source, kernel, stage)
            else:
                made = _build_for_other(source, kernel, stage)
        cache.publish(made, final)


def _copy_source(source: ModuleSource, directory: Path) -> None:
    directory.mkdir(parents=True)
    for path in source.directory.iterdir():
        if path.suffix in (".c", ".h") or path.name == "Makefile":
            shutil.copy(path, directory / path.name)


def _build_in_tree(source: ModuleSource, tree: Path, stage: Path) -> Path:
    """Build against a user's kernel tree with the user's own make and compiler."""
    directory = stage / "src"
    _copy_source(source, directory)
    make_in_tree(tree, directory, f"{source.name}.ko")
    return directory / f"{source.name}.ko"


def make_in_tree(tree: Path, directory: Path, module: str, *arguments: str) -> None:
    """Build the modules of `directory` with a user's `tree`; BuildFailed names `module`.

    make and the compiler are the user's, as in the tree's own build.
    """
    if shutil.which("make") is None:
        raise MissingCapability("building for a kernel tree", "make is not installed")
    argv = ["make", "-s", "-C", str(tree), f"M={directory}", *arguments, "modules"]
    _make(argv, module)


@dataclass(frozen=True)
class BuildRoot:
    """A build root of one build's own: the tools, and a kernel's packaged headers beside them."""

    tools: toolroot.ToolRoot
    path: Path
    kernel: kernels.Kernel

    @classmethod
    def for_kernel(cls, kernel: kernels.Kernel, stage: Path) -> BuildRoot:
        """Make one below `stage`, in no time: the tools are linked, the headers unpacked."""
        tools = _build_root()
        root = stage / "root"
        shutil.copytree(tools.path, root, symlinks=True, copy_function=os.link)
        if kernel.own is not None:
            for name in ("source", "out"):
                shutil.copytree(
                    kernel.own / name, root / name, symlinks=True, copy_function=os.link
                )
        for deb in kernel.headers:
            packages.extract(deb, root, lambda path: path.startswith(("usr/src", "usr/lib/linux")))
        return cls(tools, root, kernel)

    @property
    def common(self) -> Path:
        """The directory of the headers that all flavours of the kernel have in common."""
        release = self.kernel.release.removesuffix("-amd64")
        return self.path / f"usr/src/linux-headers-{release}-common"

    @property
    def kvm(self) -> str:
        """Where arch/x86/kvm is once add_source() has put it there: a path inside the root."""
        return f"/{self.common.relative_to(self.path)}/arch/x86/kvm"

    def add_source(self, tree: Path) -> None:
        """Put a part of the kernel's source tree, with what was built there, beside its headers."""
        # Times too: make goes by them.
        shutil.copytree(tree, self.common, symlinks=True, dirs_exist_ok=True)

    def module(self, name: str) -> Path:
        """Return where a build in `kvm` leaves a module."""
        return self.common / "arch/x86/kvm" / f"{name}.ko"

    @property
    def _directory(self) -> str:
        """Where modules are built from, inside the root."""
        if self.kernel.own is not None:
            return "/out"
        return f"/usr/src/linux-headers-{self.kernel.release}"

    def make(
        self, directory: str, module: str, *arguments: str, targets: Sequence[str] = ("modules",)
    ) -> None:
        """Build in `directory` (a path inside the root): its modules, or other targets there.

        BuildFailed names `module`.
        """
        make = ["env", "-i", "PATH=/usr/bin:/bin", "make", "-s", f"M={directory}", f"CC={GCC}"]
        make += ["-C", self._directory]
        make += ["CONFIG_DEBUG_INFO_BTF_MODULES=", *arguments, *targets]
        _make([*entering(self.path), *make], module)

    def stripped(self, module: Path) -> Path:
        """Drop debug information: a fifth of the size to unpack and load."""
        strip = self.tools.argv("usr/bin/x86_64-linux-gnu-strip")
        done = process.run([*strip, "--strip-debug", str(module)], timeout=60)
        if done.returncode != 0:
            raise BuildFailed(f"strip of {module.name}: {done.stderr.strip()}")
        return module


def _build_in_root(source: ModuleSource, kernel: kernels.Kernel, stage: Path) -> Path:
    """Build against packaged headers in the build root."""
    root = BuildRoot.for_kernel(kernel, stage)
    _copy_source(source, root.path / "build")
    root.make("/build", f"{source.name}.ko")
    return root.stripped(root.path / "build" / f"{source.name}.ko")


def _build_for_other(source: ModuleSource, kernel: kernels.Kernel, stage: Path) -> Path:
    """Build for the donor series and transplant, for a kernel without packaged headers."""
    donor = kernels.get(_DONOR_SERIES)
    if not donor.headers:
        raise MissingCapability(
            f"kernel {kernel.release}", f"neither its headers nor {_DONOR_SERIES}'s are packaged"
        )
    built = _build_in_root(source, donor, stage)
    reference = kernel.module("kvm")
    if reference is None:
        raise MissingCapability(f"kernel {kernel.release}", "kvm is not a module there")
    built.write_bytes(transplant(built.read_bytes(), reference.read_bytes()))
    return built


def _build_root() -> toolroot.ToolRoot:
    try:
        return toolroot.tool_root(
            "build", TOOLS, packages.TOOLS_SUITE, keep=needed, finish=finish, recipe="1"
        )
    except packages.PackageUnavailable as failure:
        raise MissingCapability("the build root", str(failure)) from failure


def needed(path: str) -> bool:
    """Whether a file of the tools' packages is to be in a build root."""
    name = path.rsplit("/", 1)[-1]
    return not (
        path.startswith(("usr/share/", "var/"))
        or name in ("lto1", "lto-wrapper", "g++-mapper-server")
        or name.startswith(("libasan", "libtsan", "liblsan", "libhwasan", "libubsan"))
    )


def finish(root: Path) -> None:
    """Add what maintainer scripts would: names of tools, and places to mount on."""
    programs = root / "usr/bin"
    for tool in ("ld", "ar", "nm", "objcopy", "objdump", "readelf", "strip", "as"):
        if not (programs / tool).exists():
            (programs / tool).symlink_to(f"x86_64-linux-gnu-{tool}")
    if not (programs / "awk").exists():
        (programs / "awk").symlink_to("mawk")
    for directory in ("proc", "dev", "tmp"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "dev/null").touch()


def entering(root: Path) -> list[str]:
    """Return the start of a command line that runs in the build root `root`."""
    return [*_namespaces(), "sh", "-c", _ENTER, "sh", str(root)]


def _namespaces() -> list[str]:
    if shutil.which("unshare") is None:
        raise MissingCapability(
            "building the stand-in module", "unshare (package util-linux) is not installed"
        )
    argv = ["unshare", "--mount", "--propagation", "unchanged"]  # _ENTER sees to that
    if os.getuid() != 0:
        argv += ["--map-root-user"]
        if process.run([*argv, "true"], timeout=30).returncode != 0:
            raise MissingCapability(
                "building the stand-in module",
                "this machine allows user namespaces to root only; prepare the host as root once",
            )
    return argv


def _make(argv: Sequence[str], module: str) -> None:
    try:
        done = process.run(argv, timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{module} was not built in {_DEADLINE:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if "error:" in line.lower()]
        told = "\n".join(errors[:10] or lines[-10:])
        raise BuildFailed(f"{module} does not build for this kernel:\n{told}")
