# SPDX-License-Identifier: MIT
"""Builds `kvmharness._kvm`: the kernel's KVM declarations and the shim, as one abi3 extension.

setuptools uses `ffibuilder` (setup.py's cffi_modules). Run as a script it compiles in place, into
kvmharness/, and leaves nothing else behind:

    python cdefs/build.py

KVMHARNESS_UAPI=<dir> compiles against another tree of kernel headers: what `make headers_install`
makes, or the usr/include of an unpacked linux-libc-dev.

What the headers have is theirs, and cffi compares it with our declarations. What they lack, or have
without a member that came later, is made from our declarations, so that one source compiles with
Debian 12's headers (6.1) and with the newest.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cffi

HERE = Path(__file__).resolve().parent

# In the order of their dependencies: struct kvm_run of kvm.h holds x86.h's registers.
KERNEL = ("types.h", "x86.h", "kvm.h", "sev.h", "psp.h", "tdx.h", "next.h")
DECLARATIONS = (*KERNEL, "shim_decl.h")
# <linux/psp-sev.h> packs every structure; cffi takes that for a whole cdef.
PACKED = frozenset({"psp.h"})

# A number, a structure, or a name of ours for one that the kernel leaves without.
DECLARATION = re.compile(
    r"^#define (?P<number>\w+) (?P<value>\S+)"
    r"|^struct (?P<tag>\w+) (?P<body>\{.*?^\});"
    r"|^typedef (?P<unnamed>struct \{.*?^\}) (?P<alias>\w+);",
    re.MULTILINE | re.DOTALL,
)

INCLUDES = """\
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/psp-sev.h>
"""


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


def declare(ffi: cffi.FFI, directory: Path = HERE) -> cffi.FFI:
    """Feed every declaration to `ffi`, in order."""
    for name in DECLARATIONS:
        ffi.cdef((directory / name).read_text(), packed=name in PACKED)
    return ffi


class Declared(NamedTuple):
    """What the declarations say, as C: what a compiler is asked about, and given where it lacks."""

    numbers: dict[str, str]  # name: literal
    structures: dict[str, str]  # tag: all from the opening brace to the semicolon
    aliases: dict[str, tuple[str, str]]  # a name for a member without a tag: its owner, the member


def read(directory: Path = HERE, files: Sequence[str] = KERNEL) -> Declared:
    """Read declarations of the kernel's; in their order, so that what one needs comes before it."""
    declared = Declared({}, {}, {})
    unnamed: dict[str, str] = {}
    for file in files:
        attribute = " __attribute__((packed))" if file in PACKED else ""
        for item in DECLARATION.finditer((directory / file).read_text()):
            if item["number"]:
                declared.numbers[item["number"]] = item["value"]
            elif item["alias"]:
                unnamed[item["alias"]] = item["unnamed"]
            else:
                body = item["body"]
                for alias, member in re.findall(r"^\t+(kvmh_\w+) (\w+);", body, re.M):
                    declared.aliases[alias] = (item["tag"], member)
                    body = body.replace(f"{alias} {member};", f"{unnamed[alias]} {member};")
                declared.structures[item["tag"]] = f"{body}{attribute};"
    return declared


def fields(type_: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every field of a cffi structure: its path, and what cffi says of it.

    Goes down into what can only be named through its owner: structures and unions without a tag
    and arrays of them, whose first element stands for all.
    """
    for name, field in type_.fields:
        path = (*before, name)
        yield path, field
        inner = field.type
        while inner.kind == "array":
            inner = inner.item
            path = (*path, 0)
        if inner.kind in ("struct", "union") and not re.match(r"(struct|union) \w", inner.cname):
            yield from fields(inner, path)


def dotted(path: Sequence[str | int]) -> str:
    """A path as C writes it after `s.`: redirtbl[0].fields.mask."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def number_probe(name: str) -> str:
    """C that compiles if `name` is a constant."""
    return f"enum {{ value = !({name}) }};"


def field_probe(type_: str, path: Sequence[str | int]) -> str:
    """C that compiles if the structure has the field."""
    return f"(void)(({type_} *)0)->{dotted(path)};"


def missing(command: Sequence[str], probes: Mapping[str, str], after: str = INCLUDES) -> set[str]:
    """The names whose probe does not compile after the kernel headers."""
    names: set[str] = set()
    while found := refused(command, {n: c for n, c in probes.items() if n not in names}, after):
        names |= found  # and ask about the rest: clang stops after 20 errors
    return names


def refused(command: Sequence[str], probes: Mapping[str, str], after: str) -> set[str]:
    """The names whose probe one run of the compiler complains about; some at least, if any is."""
    # A line each, under a file name of its own. Without warnings, a message that names the line
    # refuses it: an error, or the note that says which macro an error in a header came from.
    lines = [f"static void probe{i}(void) {{ {c} }}" for i, c in enumerate(probes.values())]
    source = "\n".join([after, '#line 1 "probes"', *lines, ""])
    argv = [*command, "-w", "-fsyntax-only", "-xc", "-"]
    try:
        done = subprocess.run(argv, input=source, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return set()  # an sdist is made without a compiler; where one is needed, setuptools says so
    names = list(probes)
    return {names[int(line) - 1] for line in re.findall(r"^probes:(\d+):", done.stderr, re.M)}


def compile_command(include_dirs: Sequence[str]) -> list[str]:
    """The compiler that setuptools will use, and what decides there which headers it sees."""
    words = [
        os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc",
        os.environ.get("CFLAGS", ""),
        os.environ.get("CPPFLAGS", ""),
    ]
    return [*shlex.split(" ".join(words)), *(f"-I{path}" for path in include_dirs)]


def lacking(ffi: cffi.FFI, declared: Declared, command: Sequence[str]) -> set[str]:
    """The numbers and structures that the headers lack, or have without a field, or with one such.

    `ffi` has the same declarations.
    """
    probes = {name: number_probe(name) for name in declared.numbers}
    for tag in declared.structures:
        type_ = f"struct {tag}"
        paths = (path for path, _ in fields(ffi.typeof(type_)))
        probes[tag] = " ".join(field_probe(type_, path) for path in paths)
    names = missing(command, probes)
    for tag, text in declared.structures.items():
        if not names.isdisjoint(re.findall(r"\bstruct (\w+)", text)):
            names.add(tag)
    return names


def fallbacks(declared: Declared, names: set[str]) -> str:
    """C for what the headers lack, and for the names they never have; to stand after them.

    A structure may be there, without a field that came later. So it gets a name of our own, and a
    macro lets the rest of the source, and the code cffi writes, go on with the kernel's. That is
    sound because the kernel only adds: exits to a union that padding[] keeps at its size, names for
    what was padding. No ioctl's argument changed its size.
    """
    lines = []
    for name, value in declared.numbers.items():
        if name in names:
            lines += [f"#undef {name}", f"#define {name} {value}"]
    for tag, text in declared.structures.items():
        if tag in names:
            lines += [f"struct kvmh_{tag} {text}", f"#define {tag} kvmh_{tag}"]
    for alias, (tag, member) in declared.aliases.items():
        lines.append(f"typedef __typeof__(((struct {tag} *)0)->{member}) {alias};")
    return "\n".join([*lines, ""])


def make_builder(module: str = "kvmharness._kvm", directory: Path = HERE) -> cffi.FFI:
    """The FFI that writes and compiles the extension `module` from the declarations found there."""
    try:
        include_dirs = uapi_include_dirs()
    except FileNotFoundError as error:
        sys.exit(f"kvmharness: KVMHARNESS_UAPI: {error}")
    ffi = declare(cffi.FFI(), directory)
    declared = read(directory)
    names = lacking(ffi, declared, compile_command(include_dirs))
    ffi.set_source(
        module,
        INCLUDES + fallbacks(declared, names) + '#include "shim.h"\n',
        include_dirs=[*include_dirs, str(directory)],
        depends=[str(path) for path in sorted(directory.glob("*.h"))],
        # Hundreds of functions that report a constant: optimising them gains nothing.
        extra_compile_args=["-O1", "-g0", "-Wall", "-Werror=implicit-function-declaration"],
        py_limited_api=True,
    )
    return ffi


def compile_into(target: Path, module: str = "kvmharness._kvm", directory: Path = HERE) -> Path:
    """Compile the extension and put it, named for the stable ABI, into the directory `target`."""
    name = module.rpartition(".")[2]
    with tempfile.TemporaryDirectory(prefix="kvmharness-build-") as scratch:
        built = make_builder(module, directory).compile(tmpdir=scratch)
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
