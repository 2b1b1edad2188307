# SPDX-License-Identifier: MIT
"""Whole kernels of a configuration of ours: plain, and debug.

Built out of the unmodified source package of a series, or a user's tree, in a build root of their
own, with vm_images/emulated_host/kernel_config on top of allnoconfig. One image has every kind of
VM with private memory. It takes a quarter of an hour; what an interrupted build has made is kept,
and goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kvmharness import host_kinds, process, progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import cache, config, kernels, modulebuild, packages, spec, toolroot, trees
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.modulebuild import BuildFailed

#: The configurations, and the fragments that each is made of, in order.
VARIANTS = {
    "plain": ("host", "whole"),
    "debug": ("host", "whole", "debug"),
}
#: Beyond what a module takes to build.
_TOOLS = (
    *modulebuild.TOOLS,
    *("flex", "bison", "bc", "perl-base", "diffutils", "gzip", "xz-utils"),
    *("libelf-dev", "libc6-dev", "linux-libc-dev"),
)
#: Of a kernel's source, what no build of ours reads: half of it.
_UNREAD = re.compile(
    r"(arch/(?!x86/|Kconfig$)|Documentation/|tools/(testing|perf)/|drivers/gpu/|sound/)"
)
#: But for what the configuration is made from.
_READ = re.compile(r"(?:.*/)?(Kconfig|Makefile|Kbuild)[^/]*")
#: Of a build's source and objects, what modules are built against: directories taken whole, what of
#: arch, and single files.
_WHOLE = ("include", "scripts")
_OF_ARCH = re.compile(r".*\.(h|lds)|(Makefile|Kbuild).*")
_FILES = ("Makefile", "Kbuild", ".config", "Module.symvers", "tools/objtool/objtool")
#: How many objects a build makes, for the time that is left.
_OBJECTS = 1650
_DEADLINE = 6 * 3600.0
#: Changed when the way it is built changes.
_RECIPE = "1"


@dataclass(frozen=True)
class _Source:
    """Where a kernel's source comes from. `fill` puts it into a directory.

    `identity` changes with it. `changing`: it is edited, so the objects of a build are kept.
    """

    name: str
    origin: str
    identity: str
    fill: Callable[[Path], None]
    changing: bool = False


def find(base: str, variant: str) -> Kernel:
    """Return a kernel that build() made before. Raises MissingCapability that says how to."""
    source = _source(base)
    found = _load(_final(source, variant))
    if found is None:
        given = base if spec.is_tree(base) else f"--series {base}"
        raise MissingCapability(
            f"kernel {base}:{variant}",
            f"it is not built yet: kvmharness kernel build {given} --variant {variant} (a quarter "
            "of an hour on two cores)",
        )
    return found


def build(base: str, variant: str) -> Kernel:
    """Return the kernel of a series, or of a tree, in a variant; built if it is not cached.

    Raises MissingCapability where the source or the tools can't be had, BuildFailed.
    """
    source = _source(base)
    final = _final(source, variant)
    with cache.locked(f"own-{final.name}"):
        found = _load(final)
        if found is None:
            _build(source, variant, final)
            found = _load(final)
    assert found is not None
    return found


def cached() -> list[Kernel]:
    """Return the kernels that were built, whatever they were built of."""
    found = map(_load, sorted((cache.cache_dir() / "own").glob("*")))
    return [kernel for kernel in found if kernel is not None]


# ------------------------------------------------------------------ the source


def _source(base: str) -> _Source:
    if spec.is_tree(base):
        return _tree(Path(base).expanduser().resolve())
    packaged = kernels.get(base)
    facts = json.loads((kernels.directory_of(packaged.release) / "facts.json").read_text())
    series = kernels.series_of(packaged.release)
    wanted = f"linux-source-{series}={facts['version']}"

    def fill(directory: Path) -> None:
        try:
            (deb,) = packages.fetch([wanted], suite=facts["suite"])
        except packages.PackageUnavailable as failure:
            raise MissingCapability(f"the source of {packaged.release}", str(failure)) from failure
        with cache.staging("source") as stage:
            packages.extract(deb, stage, lambda path: path.endswith(".tar.xz"))
            (archive,) = stage.rglob("*.tar.xz")
            with progress.step(f"unpacking {deb.name}"), tarfile.open(archive, "r|xz") as stream:
                stream.extractall(directory, filter=_wanted)
        packages.forget([deb])

    release = packaged.release.removesuffix("-amd64")
    return _Source(release, f"Debian's {wanted}, unmodified", wanted, fill)


def _wanted(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo | None:
    """Take what a build reads out of a source archive, without its top directory."""
    member.name = member.name.removeprefix("./").partition("/")[2]
    if not member.name or (not member.isdir() and not _is_read(member.name)):
        return None
    return member


def _is_read(path: str) -> bool:
    return not _UNREAD.match(path) or bool(_READ.fullmatch(path))


def _tree(tree: Path) -> _Source:
    """Take a user's tree as it is now: what git tracks, or all that no build made."""
    if not (tree / "Kconfig").exists():
        raise MissingCapability(f"kernel {tree}", "there is no Kconfig: it is no kernel tree")
    files = [path for path in _tracked(tree) if _is_read(path) and (tree / path).is_file()]
    total = hashlib.sha256(str(tree).encode())
    for path in files:
        status = (tree / path).stat()
        total.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())

    def fill(directory: Path) -> None:
        with progress.step(f"copying the source of {tree}"):
            _copy(tree, files, directory)

    name = f"{tree.name}-{_digest(str(tree))}"
    return _Source(name, f"tree {tree}", total.hexdigest(), fill, changing=True)


def _tracked(tree: Path) -> list[str]:
    try:
        listed = process.run(["git", "-C", str(tree), "ls-files", "-z"], timeout=120)
    except FileNotFoundError:
        listed = None
    if listed is not None and listed.returncode == 0:
        return sorted(path for path in listed.stdout.split("\0") if path)
    made = (".o", ".ko", ".cmd", ".a", ".mod")
    paths = (path for path in tree.rglob("*") if not path.name.endswith(made))
    return sorted(str(path.relative_to(tree)) for path in paths if path.is_file())


def _copy(tree: Path, files: Iterable[str], directory: Path) -> None:
    """Copy what has changed, with its times, so that a build goes on from where it was."""
    for path in files:
        ours, theirs = directory / path, tree / path
        if ours.exists():
            before, now = ours.stat(), theirs.stat()
            if (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
                continue
        ours.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(theirs, ours)


# ------------------------------------------------------------------ the build


def _build(source: _Source, variant: str, final: Path) -> None:
    work = cache.cache_dir() / "builds" / final.name.rpartition("-")[0]
    stamp = work / "identity"
    begun = stamp.exists() and stamp.read_text() == final.name
    if not begun and not source.changing:
        shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    if not (root / "usr").exists():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(_tools().path, root, symlinks=True, copy_function=os.link)
    for name in ("source", "out"):
        (root / name).mkdir(exist_ok=True)
    if not begun:
        source.fill(root / "source")
        stamp.write_text(final.name)
    _configure(root, variant)
    _compile(root, f"building {source.name}:{variant}")
    with cache.staging("own") as stage:
        made = stage / "kernel"
        _collect(root, made, source, variant)
        cache.publish(made, final)
    if not source.changing:
        shutil.rmtree(work, ignore_errors=True)


def _tools() -> toolroot.ToolRoot:
    try:
        return toolroot.tool_root(
            "kernel",
            _TOOLS,
            packages.TOOLS_SUITE,
            keep=lambda path: modulebuild.needed(path) or path.startswith("usr/share/bison"),
            finish=modulebuild.finish,
            recipe="2",
        )
    except packages.PackageUnavailable as failure:
        raise MissingCapability("the build root", str(failure)) from failure


def _make(root: Path, *arguments: str) -> list[str]:
    environment = ["env", "-i", "PATH=/usr/bin:/usr/sbin", "HOME=/"]
    environment += ["KBUILD_BUILD_USER=kvmharness", "KBUILD_BUILD_HOST=kvmharness"]
    tools = [f"{tool}={modulebuild.GCC}" for tool in ("CC", "HOSTCC")]
    make = ["make", "-s", "-C", "/source", "O=/out", *tools, *arguments]
    return [*modulebuild.entering(root), *environment, *make]


def _configure(root: Path, variant: str) -> None:
    """Make /out/.config, and leave it alone where it would be the same: make goes by its time."""
    text = "".join(map(config.fragment, VARIANTS[variant]))
    wanted = root / "out/wanted.config"
    if wanted.exists() and wanted.read_text() == text and (root / "out/.config").exists():
        return
    wanted.write_text(text)
    done = process.run(
        _make(root, "KCONFIG_ALLCONFIG=/out/wanted.config", "allnoconfig"), timeout=600
    )
    if done.returncode != 0:
        raise BuildFailed(f"the kernel can't be configured: {_last(done.stderr)}")
    made = config.parse((root / "out/.config").read_text())
    for kind in host_kinds.EMULATED:
        if reason := config.why_not(made, kind):
            raise BuildFailed(f"this source can't be configured for an {kind} host: {reason}")
    asked = {option.name: option.wanted for option in config.options(text)}
    lost = [name for name, value in asked.items() if value != "n" and made.get(name) != value]
    if lost:
        progress.note(f"this source has no {', '.join(sorted(lost))}; it is built without")


def _compile(root: Path, words: str) -> None:
    log = root.parent / "log"
    argv = _make(root, f"-j{os.cpu_count() or 1}", "bzImage", "modules")
    with progress.step(words, timed=True) as report, log.open("w+", errors="replace") as output:
        with process.child(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as running:
            give_up = time.monotonic() + _DEADLINE
            while True:
                try:
                    status = running.wait(5)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > give_up:
                        raise BuildFailed(f"not built in {_DEADLINE / 3600:.0f} h") from None
                made = sum(1 for _ in (root / "out").rglob("*.o"))
                report(min(made / _OBJECTS, 0.99))
        if status != 0:
            output.seek(0)
            raise BuildFailed(f"the kernel does not build ({log}):\n{_last(output.read())}")


def _last(text: str) -> str:
    lines = text.splitlines()
    return "\n".join([line for line in lines if "error:" in line][:10] or lines[-10:])


def _collect(root: Path, made: Path, source: _Source, variant: str) -> None:
    out = root / "out"
    (made / "modules").mkdir(parents=True)
    image = kernels.unpack_image((out / trees.IMAGE).read_bytes(), made)
    for name, path in trees.modules_below(out).items():
        shutil.copy(path, made / "modules" / f"{name}.ko")
    for name in ("source", "out"):
        for path in _headers(root / name):
            (made / "headers" / name / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name / path, made / "headers" / name / path, follow_symlinks=False)
    facts = {
        "release": (out / "include/config/kernel.release").read_text().strip(),
        "image": image.name,
        "origin": f"{source.origin}, configured by kvmharness: {variant}",
        "variant": variant,
    }
    (made / "facts.json").write_text(json.dumps(facts, indent=1))


def _headers(directory: Path) -> Iterable[Path]:
    """Yield what modules are built against of a source or its objects, by the path below.

    As the kernel's own scripts/package/install-extmod-build has it: headers, what make reads, and
    the programs that a build made for itself.
    """
    for path in directory.rglob("*"):
        below = path.relative_to(directory)
        whole = below.parts[0] in _WHOLE or str(below) in _FILES
        wanted = whole or (below.parts[0] == "arch" and _OF_ARCH.fullmatch(path.name))
        if wanted and path.suffix not in (".o", ".a") and path.is_file():
            yield below


# ------------------------------------------------------------------ the cache


def _final(source: _Source, variant: str) -> Path:
    text = "".join(map(config.fragment, VARIANTS[variant]))
    # What is asked for, and not the comments: they make no other kernel.
    asked = [f"{option.name}={option.wanted}" for option in config.options(text)]
    key = _digest(_RECIPE, source.identity, *asked)
    return cache.cache_dir() / "own" / f"{source.name}-{variant}-{key}"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _load(directory: Path) -> Kernel | None:
    facts = directory / "facts.json"
    if not facts.exists():
        return None
    known = json.loads(facts.read_text())
    return Kernel(
        known["release"],
        directory / known["image"],
        directory / "modules",
        known["origin"],
        own=directory / "headers",
        changes=f":{known['variant']}",
    )
