# SPDX-License-Identifier: MIT
"""Kernels to run on: of a series, from Debian's archive, or a build tree of the user's own.

``6.12`` and the like name a series, resolved to the newest point release the archive has (point
releases come and go); ``newest`` names the newest of all; a full release is itself. Never the cloud
flavour: it is built without SEV. How kernels are named is in spec.py; what was asked for beyond the
packaged kernel, resolve.py makes.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import lzma
import re
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kernels import cache, packages, spec
from kvmharness.release import parse_release

#: Modules taken out of a kernel package, with what they depend on. Those that a kernel has built
#: in, or lacks, are passed over here and missed when they are needed.
WANTED = ("kvm", "kvm-amd", "kvm-intel", "ccp", "9p", "9pnet_virtio", "overlay", "msr")
_INDEX_AGE = 24 * 3600.0
_RELEASE = r"\d+\.\d+(?:\.\d+)?(?:[+~-][a-z0-9.]+)?-amd64"
_PACKAGE = re.compile(rf"linux-(image|binary|modules|headers)-({_RELEASE})")


@dataclass(frozen=True)
class Candidate:
    """A kernel in the archive: which packages make it up, and whether modules can be built."""

    release: str
    version: str
    suite: str
    parts: tuple[str, ...]  # of image, binary, modules
    headers: bool

    @property
    def packages(self) -> list[str]:
        """The packages with the kernel and its modules, as ``name=version``."""
        return [f"linux-{part}-{self.release}={self.version}" for part in self.parts]

    @property
    def header_packages(self) -> list[str]:
        """The packages that modules are built against."""
        base = self.release.removesuffix("-amd64")
        return [
            f"linux-headers-{self.release}",
            f"linux-headers-{base}-common",
            f"linux-kbuild-{base}",
        ]


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to boot."""

    release: str
    image: Path  # vmlinux where it could be unpacked, else bzImage
    modules: Path  # directory of name.ko
    origin: str  # where it is from, for people
    headers: tuple[Path, ...] = ()  # packages to build modules against
    tree: Path | None = None  # the build tree to build modules against
    #: The headers of a kernel that was built here, to build modules against (own_build.py).
    own: Path | None = None
    #: Modules that take the place of the kernel's own, by name as in ``kvm-amd``.
    replaced: Mapping[str, Path] = field(default_factory=dict)
    #: What that made of the kernel, as its name has it: ``+series.mbox``, ``:sw-protected``.
    changes: str = ""

    @property
    def build_directory(self) -> Path | None:
        """Where it was built, with its configuration; None for a packaged one."""
        return self.tree if self.own is None else self.own / "out"

    @property
    def label(self) -> str:
        """What reports call it: its release, or ``7.3.4+series.mbox`` for what is no longer it."""
        return f"{parse_release(self.release)}{self.changes}" if self.changes else self.release

    @property
    def identity(self) -> str:
        """A file name that tells it from every other kernel, also from one with other modules."""
        # The directory is the kernel's in the cache: a release, or the digest of a tree's image.
        name = self.image.parent.name
        if not self.replaced:
            return name
        total = hashlib.sha256()
        for module, path in sorted(self.replaced.items()):
            total.update(module.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return f"{name}-{total.hexdigest()[:16]}"

    def module(self, name: str) -> Path | None:
        """Return the module's file, or None if the kernel has it built in or not at all."""
        name = name.replace("_", "-")
        path = self.replaced.get(name) or self.modules / f"{name}.ko"
        return path if path.exists() else None

    def load_order(self, names: Iterable[str]) -> list[str]:
        """Return `names` and what they need, in the order to load them; built-in ones left out."""
        from kvmharness.kernels import elf

        order: list[str] = []

        def add(name: str) -> None:
            path = self.module(name)
            if path is None or name.replace("_", "-") in order:
                return
            for needed in elf.Module(path.read_bytes()).depends():
                add(needed)
            order.append(name.replace("_", "-"))

        for name in names:
            add(name)
        return order


def parse_candidates(held: Sequence[packages.Package]) -> list[Candidate]:
    """Return the kernels that a listing of packages makes up."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for package in held:
        match = _PACKAGE.fullmatch(package.name)
        if match:
            key = (match[2], package.version, package.suite)
            found.setdefault(key, set()).add(match[1])
    candidates = []
    for (release, version, suite), parts in found.items():
        # Up to 6.18 image holds everything; later it is empty, and binary and modules hold it.
        # 6.19 to 7.1 have left the archive in part: binary without its modules boots nothing.
        needed = ["binary", "modules"] if "binary" in parts else ["image"]
        if all(part in parts for part in needed):
            headers = "headers" in parts or any(
                "headers" in other and key[0] == release and key[2] == suite
                for key, other in found.items()
            )
            candidates.append(Candidate(release, version, suite, tuple(needed), headers))
    return candidates


def choose(wanted: str, candidates: Sequence[Candidate]) -> Candidate:
    """Return the kernel that `wanted` (series, ``newest`` or release) names.

    A point release whose headers are there is preferred over a newer one without, and one built for
    the release whose compiler and C library the build root has over others. Raises
    MissingCapability.
    """
    fitting = [c for c in candidates if names_release(wanted, c.release)]
    if not fitting:
        series = sorted({series_of(c.release) for c in candidates}, key=packages.version_key)
        raise MissingCapability(
            f"kernel {wanted}", "the archive has only " + (", ".join(series) or "no kernel")
        )
    return max(
        fitting,
        key=lambda c: (
            c.headers,
            packages.version_key(series_of(c.release)),
            c.suite.startswith(packages.TOOLS_SUITE),
            packages.version_key(c.release),
        ),
    )


def series_of(release: str) -> str:
    """Return ``7.3`` for ``7.3.4+deb13-amd64``."""
    match = re.match(r"\d+\.\d+", release)
    return match[0] if match else release


def names_release(wanted: str, release: str) -> bool:
    """Whether `wanted` names this release: all do for ``newest``, 6.12 names 6.12.5 but not 6.1."""
    return wanted in (spec.NEWEST, release) or bool(
        re.match(re.escape(wanted) + r"(?![0-9])(?=[.+~-]|$)", release)
    )


def get(wanted: str, *, update: bool = False) -> Kernel:
    """Return the kernel that `wanted` (a Spec's base) names, fetched if it is not cached.

    A series is answered from the cache if a release of it is there, unless `update`. Raises
    MissingCapability with the reason.
    """
    if spec.is_tree(wanted):
        from kvmharness.kernels import trees

        return trees.get(Path(wanted))
    held = {k.release: k for k in cached() if names_release(wanted, k.release)}
    if held and not update and wanted != spec.NEWEST:
        return held[max(held, key=packages.version_key)]
    try:
        candidate = _find(wanted)
        with cache.locked(f"kernel-{candidate.release}"):
            return _load(candidate.release) or _fetch(candidate)
    except packages.PackageUnavailable as failure:
        if held:
            release = max(held, key=packages.version_key)
            progress.note(f"{failure}; going on with {release} from the cache")
            return held[release]
        raise MissingCapability(f"kernel {wanted}", str(failure)) from failure


def cached() -> list[Kernel]:
    """Return the kernels from the archive that are in the cache."""
    root = cache.cache_dir() / "kernels"
    found = [_load(directory.name) for directory in sorted(root.glob("*"))]
    return [kernel for kernel in found if kernel is not None]


def directory_of(release: str) -> Path:
    """Return the cache's directory for a kernel of the archive."""
    return cache.cache_dir() / "kernels" / release


def _load(release: str) -> Kernel | None:
    directory = directory_of(release)
    facts = directory / "facts.json"
    if not facts.exists():
        return None
    known = json.loads(facts.read_text())
    return Kernel(
        release=release,
        image=directory / known["image"],
        modules=directory / "modules",
        origin=known["origin"],
        headers=tuple(sorted((directory / "headers").glob("*.deb"))),
    )


def _find(wanted: str) -> Candidate:
    """Return the archive's kernel for `wanted`; all suites are asked only if they have to be."""
    if wanted != spec.NEWEST:
        try:
            found = choose(wanted, _listing("tools"))
        except (MissingCapability, packages.PackageUnavailable):
            pass
        else:
            if found.headers:
                return found
    return choose(wanted, _listing("all"))


def _listing(scope: str) -> list[Candidate]:
    """Return the archive's kernels, asked at most once a day.

    `scope`: ``tools``, the suites whose kernels suit the build root best, or ``all``.
    """
    stored = cache.cache_dir() / f"kernels-{scope}.json"
    if stored.exists() and time.time() - stored.stat().st_mtime < _INDEX_AGE:
        rows = json.loads(stored.read_text())
        return [Candidate(**{**row, "parts": tuple(row["parts"])}) for row in rows]
    tools = [packages.TOOLS_SUITE, f"{packages.TOOLS_SUITE}-backports"]
    held: list[packages.Package] = []
    for suite in tools if scope == "tools" else [None]:
        held += packages.available(_PACKAGE.pattern, suite)
    candidates = parse_candidates(held)
    with cache.staging("index") as directory:
        (directory / "k").write_text(json.dumps([dataclasses.asdict(c) for c in candidates]))
        cache.publish(directory / "k", stored)
    return candidates


def _fetch(candidate: Candidate) -> Kernel:
    debs = packages.fetch(candidate.packages, suite=candidate.suite)
    headers: list[Path] = []
    if candidate.headers:
        headers = packages.fetch(candidate.header_packages, suite=candidate.suite)
    with cache.staging("kernel") as directory:
        made = directory / "kernel"
        (made / "modules").mkdir(parents=True)
        (made / "headers").mkdir()
        with progress.step(f"unpacking kernel {candidate.release}"):
            _unpack(debs, directory / "files", made / "modules")
            images = list((directory / "files").rglob("vmlinuz*"))
            if not images:
                raise packages.PackageUnavailable(f"no kernel image in {debs[0].name}")
            image = unpack_image(images[0].read_bytes(), made)
        for deb in headers:
            # Kept: point releases leave the archive, and a changed module is built again.
            (made / "headers" / deb.name).write_bytes(deb.read_bytes())
        facts = {
            "image": image.name,
            "origin": f"Debian {candidate.suite}, {candidate.version}",
            "suite": candidate.suite,
            "version": candidate.version,
        }
        (made / "facts.json").write_text(json.dumps(facts, indent=1))
        cache.publish(made, directory_of(candidate.release))
    packages.forget([*debs, *headers])
    kernel = _load(candidate.release)
    assert kernel is not None
    return kernel


def _unpack(debs: Sequence[Path], files: Path, modules: Path) -> None:
    """Unpack the image and WANTED modules with all they depend on."""
    from kvmharness.kernels import elf

    wanted = {name.replace("_", "-") for name in WANTED}
    asked: set[str] = set()
    while wanted - asked:
        missing = wanted - asked
        for deb in debs:
            packages.extract(
                deb,
                files,
                lambda path, missing=missing: (
                    module_name(path) in missing  # type: ignore[misc]
                    or Path(path).name.startswith("vmlinuz")
                ),
            )
        asked |= missing
        for path in files.rglob("*.ko*"):
            name = module_name(str(path))
            data = elf.unsigned(decompress(path.read_bytes()))
            (modules / f"{name}.ko").write_bytes(data)
            path.unlink()
            wanted |= {needed.replace("_", "-") for needed in elf.Module(data).depends()}


def module_name(path: str) -> str | None:
    """Return the name of the module in a file of this path, as in ``kvm-amd``; None for others."""
    match = re.search(r"([^/]+)\.ko(?:\.(?:xz|zst|gz))?$", path)
    return match[1].replace("_", "-") if match else None


def decompress(data: bytes) -> bytes:
    """Return `data` unpacked by what its first bytes say (xz, zstd, gzip), else as it is.

    Raises HarnessError for damaged zstd data.
    """
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return _unzstd(data)
    return data


def _unzstd(data: bytes) -> bytes:
    import zstandard

    try:
        # The first frame; what follows it in a kernel image is not of it.
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except zstandard.ZstdError as error:
        raise HarnessError(f"damaged zstd data: {error}") from None


def unpack_vmlinux(image: bytes) -> bytes | None:
    """Return the vmlinux inside a bzImage if QEMU can start it, else None.

    Unpacking is slow on an emulated processor and quick here. QEMU starts an ELF image at its PVH
    entry (Xen note 18, CONFIG_PVH). Offsets: Documentation/arch/x86/boot.rst, setup_sects,
    payload_offset, payload_length.
    """
    if image[0x202:0x206] != b"HdrS"[:4] or len(image) < 0x300:
        return None
    setup = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = setup * 512 + offset
    try:
        vmlinux = decompress(image[begin : begin + length])
    except (HarnessError, lzma.LZMAError, OSError):
        return None
    return vmlinux if vmlinux.startswith(b"\x7fELF") and _has_pvh_note(vmlinux) else None


def _has_pvh_note(vmlinux: bytes) -> bool:
    # namesz 4, type 18, "Xen\0"; descsz is 4 or 8.
    return any(struct.pack("<III", 4, size, 18) + b"Xen\0" in vmlinux for size in (4, 8))


def unpack_image(image: bytes, directory: Path) -> Path:
    """Write what QEMU is to start of a bzImage to `directory`, and return the file."""
    vmlinux = unpack_vmlinux(image)
    path = directory / ("vmlinux" if vmlinux else "bzImage")
    path.write_bytes(vmlinux or image)
    return path
