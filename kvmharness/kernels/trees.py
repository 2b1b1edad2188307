# SPDX-License-Identifier: MIT
"""Kernels that the user built: a build tree, or an image with its installed modules beside it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache
from kvmharness.kernels.kernels import WANTED, Kernel, decompress, module_name, unpack_image

#: Where a build leaves the image, below its tree.
IMAGE = "arch/x86/boot/bzImage"
_RELEASE = "include/config/kernel.release"


@dataclass(frozen=True)
class _Built:
    """A kernel's files where its build, or its installation, left them."""

    path: Path  # as the user named it
    release: str
    image: Path
    modules: Mapping[str, Path]
    tree: Path  # what modules are built against


def get(path: Path) -> Kernel:
    """Return the kernel at `path`: a build tree (the directory given to make O=), or a bzImage.

    Raises MissingCapability that says what is missing, and how it is made.
    """
    path = path.expanduser().resolve()
    return _kept(_of_tree(path) if path.is_dir() else _of_image(path))


def modules_below(directory: Path) -> dict[str, Path]:
    """Return the modules in a tree, by name as in ``kvm-amd``, packed or not."""
    named = ((module_name(str(path)), path) for path in directory.rglob("*.ko*"))
    return {name: path for name, path in named if name is not None}


def _of_tree(tree: Path) -> _Built:
    if not (tree / "Makefile").exists():
        raise MissingCapability(f"kernel {tree}", "there is no Makefile: it is no kernel tree")
    for needed in (_RELEASE, IMAGE, "Module.symvers"):
        if not (tree / needed).exists():
            configured = "" if (tree / ".config").exists() else "no .config and "
            raise MissingCapability(
                f"kernel {tree}",
                f"it has {configured}no {needed}: build it (make -C {tree} -j olddefconfig bzImage "
                "modules) on a configuration that has what `kvmharness kernel fragment` prints, or "
                f"kvmharness kernel build {tree}, which makes {tree}:plain",
            )
    release = (tree / _RELEASE).read_text().strip()
    return _Built(tree, release, tree / IMAGE, modules_below(tree), tree)


def _of_image(image: Path) -> _Built:
    """Take modules from beside an image, or from its tree where it has not been moved."""
    if image.parts[-4:] == tuple(IMAGE.split("/")):
        return _of_tree(image.parents[3])
    release = release_of(image)
    name = f"lib/modules/{release}"
    places = [image.parent / name, image.parent.parent / name, Path("/") / name]
    installed = next((place for place in places if place.is_dir()), None)
    if installed is None:
        raise MissingCapability(
            f"kernel {image}",
            f"its modules are not there: {name} is taken from beside the image, from the directory "
            "above, or from / (make modules_install INSTALL_MOD_PATH=DIRECTORY puts it there)",
        )
    tree = (installed / "build").resolve()
    if not (tree / "Makefile").exists():
        raise MissingCapability(
            f"kernel {image}",
            f"{installed}/build leads to no tree or headers of it, and the stand-in for the "
            "silicon is a module that is built against them",
        )
    return _Built(image, release, image, modules_below(installed), tree)


def release_of(image: Path) -> str:
    """Return the release that a bzImage says it is; MissingCapability for what is none.

    Documentation/arch/x86/boot.rst: kernel_version, an offset from 0x200.
    """
    data = image.read_bytes()[:0x8000]
    if data[0x202:0x206] == b"HdrS":
        (offset,) = struct.unpack_from("<H", data, 0x20E)
        words = data[0x200 + offset :].partition(b"\0")[0].split()
        if words:
            return words[0].decode("ascii", "replace")
    raise MissingCapability(f"kernel {image}", "it is no bzImage")


def _kept(built: _Built) -> Kernel:
    """Return the kernel with copies of its image and of the modules that hosts load.

    The next build in the same place makes another kernel.
    """
    from kvmharness.kernels import elf

    data = built.image.read_bytes()
    digest = hashlib.sha256(data)
    modules: dict[str, bytes] = {}
    wanted = [name.replace("_", "-") for name in WANTED]
    while wanted:
        name = wanted.pop(0)
        if name in built.modules and name not in modules:
            modules[name] = elf.unsigned(decompress(built.modules[name].read_bytes()))
            digest.update(modules[name])
            wanted += [n.replace("_", "-") for n in elf.Module(modules[name]).depends()]
    directory = cache.cache_dir() / "trees" / digest.hexdigest()[:16]
    with cache.locked(f"tree-{directory.name}"):
        if not directory.exists():
            with cache.staging("tree") as stage:
                made = stage / "tree"
                (made / "modules").mkdir(parents=True)
                unpack_image(data, made)
                for name, content in modules.items():
                    (made / "modules" / f"{name}.ko").write_bytes(content)
                cache.publish(made, directory)
    images = [p for p in (directory / "vmlinux", directory / "bzImage") if p.exists()]
    origin = f"build tree {built.path}" if built.path.is_dir() else f"image {built.path}"
    return Kernel(built.release, images[0], directory / "modules", origin, tree=built.tree)
