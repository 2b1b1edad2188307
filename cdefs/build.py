# SPDX-License-Identifier: MIT
"""Builds `kvmharness._kvm`: the kernel's KVM declarations and the shim, as one abi3 extension.

setuptools uses `ffibuilder` (setup.py's cffi_modules). Run as a script it compiles in place, into
kvmharness/, and leaves nothing else behind:

    python cdefs/build.py

KVMHARNESS_UAPI=<dir> compiles against another tree of kernel headers: what `make headers_install`
makes, or the usr/include of an unpacked linux-libc-dev.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent

# In the order of their dependencies: struct kvm_run of kvm.h holds x86.h's registers.
DECLARATIONS = (
    "types.h",
    "x86.h",
    "kvm.h",
    "sev.h",
    "psp.h",
    "tdx.h",
    "next.h",
    "shim_decl.h",
)
# <linux/psp-sev.h> packs every structure; cffi takes that for a whole cdef.
PACKED = frozenset({"psp.h"})

SOURCE = '#include "compat.h"\n#include "shim.h"\n'


def require_supported_platform() -> None:
    """Exit with one line where the x86 uAPI can't be compiled, before a compiler writes fifty."""
    machine = platform.machine()
    if sys.platform != "linux" or machine != "x86_64" or struct.calcsize("P") != 8:
        sys.exit(
            "kvmharness builds on x86-64 Linux with a 64-bit Python only: it binds the x86 KVM "
            f"ioctls (this is {sys.platform} on {machine})."
        )


def uapi_include_dirs(tree: str | None = None) -> list[str]:
    """Include directories of a header tree, $KVMHARNESS_UAPI by default; "" is the system's.

    Debian keeps <asm/...> beside <linux/...> in a directory named after the architecture;
    headers_install doesn't.
    """
    tree = os.environ.get("KVMHARNESS_UAPI", "") if tree is None else tree
    if not tree:
        return []
    root = Path(tree).resolve()
    if not (root / "linux" / "kvm.h").is_file():
        raise FileNotFoundError(
            f"no linux/kvm.h under {root}; give the include directory of a kernel header tree, "
            "for example usr/include of an unpacked linux-libc-dev"
        )
    multiarch = root / "x86_64-linux-gnu"
    return [str(root), *([str(multiarch)] if multiarch.is_dir() else [])]


def declare(ffi: cffi.FFI, folder: Path = HERE) -> cffi.FFI:
    """Feed every declaration to `ffi`, in order."""
    for name in DECLARATIONS:
        ffi.cdef((folder / name).read_text(), packed=name in PACKED)
    return ffi


def make_builder(module: str = "kvmharness._kvm", folder: Path = HERE) -> cffi.FFI:
    """The FFI that writes and compiles the extension `module` from the declarations in `folder`."""
    try:
        include_dirs = uapi_include_dirs()
    except FileNotFoundError as error:
        sys.exit(f"kvmharness: KVMHARNESS_UAPI: {error}")
    ffi = declare(cffi.FFI(), folder)
    ffi.set_source(
        module,
        SOURCE,
        include_dirs=[*include_dirs, str(folder)],
        depends=[str(path) for path in sorted(folder.glob("*.h"))],
        # Hundreds of functions that report a constant: optimising them gains nothing.
        extra_compile_args=["-O1", "-g0", "-Wall", "-Werror=implicit-function-declaration"],
        py_limited_api=True,
    )
    return ffi


def compile_into(target: Path, module: str = "kvmharness._kvm", folder: Path = HERE) -> Path:
    """Compile the extension and put it, named for the stable ABI, into the directory `target`."""
    name = module.rpartition(".")[2]
    with tempfile.TemporaryDirectory(prefix="kvmharness-build-") as scratch:
        built = make_builder(module, folder).compile(tmpdir=scratch)
        # Renamed over the old one: a process that has it mapped keeps its own copy.
        incoming = target / f".{name}.{os.getpid()}.so"
        try:
            shutil.copy2(built, incoming)
            result = target / f"{name}.abi3.so"
            incoming.rename(result)
        finally:
            incoming.unlink(missing_ok=True)
    return result


require_supported_platform()

if __name__ == "__main__":
    print(compile_into(HERE.parent / "kvmharness"))
elif __name__ == "__cffi__" or "setuptools" in sys.modules:
    ffibuilder = make_builder()
