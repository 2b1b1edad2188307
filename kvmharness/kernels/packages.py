# SPDX-License-Identifier: MIT
"""Debian packages by name, from the mirror that apt is configured with, without installing them.

Each suite has an apt state of its own below the cache directory (sources.list, lists, package
cache). Of the system's, only the mirror, the proxies and the keyring are read and nothing is
written, so any user can fetch a package of any suite, on a machine that has never heard of that
suite. apt verifies every index and package against the Debian archive's keys, as it does for the
system.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kvmharness import process, progress
from kvmharness.errors import HarnessError
from kvmharness.kernels import cache

if TYPE_CHECKING:
    from debian.debian_support import NativeVersion

#: The release that kernels and their build tools are taken from: Debian 13, whose backports carry
#: every stable series with headers built by one compiler (gcc 14).
TOOLS_SUITE = "trixie"
#: Lists older than this are asked for again (seconds).
LISTS_AGE = 24 * 3600.0
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_APT_DEADLINE = 1200.0
# Read after the system's configuration, so that its proxies hold and its hooks do not.
_APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "{root}/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/empty";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
// Nothing counts as installed: what is fetched does not depend on the machine.
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
// The cache directory is the caller's own, where the user _apt may not write.
APT::Sandbox::User "";
// Without it, a list that could not be fetched is only a warning.
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


class PackageUnavailable(HarnessError):
    """A package can't be had here; the message is the reason, in one line."""


@dataclass(frozen=True)
class Package:
    """One version of a package as a suite's signed index describes it."""

    name: str
    version: str
    architecture: str
    suite: str
    size: int  # bytes of the .deb

    @property
    def file_name(self) -> str:
        """The name apt gives the .deb."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


@dataclass(frozen=True)
class Mirror:
    """A Debian archive that apt is configured with."""

    uri: str
    release: str  # code name of the machine's own release there


def parse_mirror(indextargets: str, codename: str) -> Mirror | None:
    """Find the Debian archive in the output of ``apt-get indextargets``; None if there is none.

    `codename` is the machine's release: the archive that carries it is taken; security and
    third-party archives, which carry other names, are passed over.
    """
    found: list[Mirror] = []
    for stanza in indextargets.split("\n\n"):
        field = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        release = field.get("Release", "")
        if (
            field.get("MetaKey", "").startswith("main/binary-")
            and re.fullmatch(r"[a-z]+", release)
            and field.get("Origin", "Debian") == "Debian"
            and (release == codename or field.get("Codename") == codename)
        ):
            found.append(Mirror(field["Repo-URI"], codename))
    return found[0] if found else None


@functools.cache
def mirror() -> Mirror:
    """Return the Debian archive apt is configured with. Raises PackageUnavailable."""
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise PackageUnavailable(
                f"{program} is not installed; packages are fetched with Debian's tools"
            )
    release = _os_release().get("VERSION_CODENAME", "")
    chosen = os.environ.get("KVMHARNESS_DEBIAN_MIRROR")
    if chosen:
        return Mirror(chosen, release if _os_release().get("ID") == "debian" else TOOLS_SUITE)
    shown = process.run(["apt-get", "indextargets"], timeout=60, env=_environment())
    found = parse_mirror(shown.stdout, release)
    if found is None:
        raise PackageUnavailable(
            "apt is not configured with a Debian archive of this machine's release; "
            "set KVMHARNESS_DEBIAN_MIRROR to the address of one"
        )
    return found


def suites() -> list[str]:
    """Return the suites that are asked, the first one first."""
    own = mirror().release
    names = [
        TOOLS_SUITE,
        f"{TOOLS_SUITE}-backports",
        own,
        f"{own}-backports",
        "testing",
        "unstable",
    ]
    return list(dict.fromkeys(names))


def available(pattern: str, suite: str | None = None) -> list[Package]:
    """Return every version of every package whose whole name matches the regular expression.

    `suite` None asks all suites; one that the mirror lacks is passed over if another answers.
    Raises PackageUnavailable if none can be asked.
    """
    wanted = re.compile(pattern)
    found: list[Package] = []
    failures: list[PackageUnavailable] = []
    asked = [suite] if suite else suites()
    for name in asked:
        try:
            state = _SuiteState.ready(name)
        except PackageUnavailable as failure:
            failures.append(failure)
            continue
        found += state.packages(wanted.fullmatch)
    if len(failures) == len(asked):
        raise failures[0]
    return found


def fetch(
    names: Sequence[str],
    suite: str | None = None,
    dest: Path | None = None,
    *,
    dependencies: bool = False,
) -> list[Path]:
    """Fetch packages and return their .deb files, in the cache or as copies below `dest`.

    Each of `names` is ``name`` or ``name=version``. Without `suite` the highest version of any
    suite is taken. `dependencies` adds everything they depend on (not what they recommend), as if
    nothing were installed, and needs `suite`. Raises PackageUnavailable.
    """
    if dependencies:
        if suite is None:
            raise ValueError("dependencies are resolved within one suite: name it")
        files = _SuiteState.ready(suite).fetch_closure(names)
    else:
        files = [_fetch_one(name, suite) for name in names]
    if dest is None:
        return files
    dest.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(file, dest)) for file in files]


def _fetch_one(wanted: str, suite: str | None) -> Path:
    name, _, version = wanted.partition("=")
    held = [p for p in available(re.escape(name), suite) if version in ("", p.version)]
    if not held:
        where = suite or ", ".join(suites())
        raise PackageUnavailable(f"{wanted} is not in the archive (looked in {where})")
    newest = max(held, key=lambda p: version_key(p.version))
    return _SuiteState.ready(newest.suite).fetch(newest)


def extract(deb: Path, dest: Path, keep: Callable[[str], bool] | None = None) -> None:
    """Unpack a .deb's files below `dest`, all of them or those whose path (``usr/...``) is kept.

    Owners are not restored: everything belongs to the caller. Raises PackageUnavailable for a
    damaged file.
    """
    dest.mkdir(parents=True, exist_ok=True)
    with process.child(
        ["dpkg-deb", "--fsys-tarfile", str(deb)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as unpack:
        assert unpack.stdout is not None
        try:
            _extract_stream(unpack.stdout, dest, keep)
        except (tarfile.TarError, EOFError) as error:
            raise PackageUnavailable(f"{deb.name} is damaged ({error}); remove {deb}") from error
        unpack.stdout.read()  # padding after the archive's end
        if unpack.wait(60) != 0:
            raise PackageUnavailable(f"{deb.name} is damaged; remove {deb}")


def _extract_stream(stream: IO[bytes], dest: Path, keep: Callable[[str], bool] | None) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        # A package of the signed archive, with absolute links that make sense in its own root. An
        # attribute, not extract(filter=): early 3.11 has no such argument.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        for member in archive:
            path = member.name.removeprefix("./")
            if not path or (keep is not None and not keep(path)):
                continue
            if member.isdir() and (dest / path).is_dir():
                continue  # it may be a link to a directory there: /lib -> usr/lib
            if member.isdev():
                continue
            member.uid, member.gid = os.getuid(), os.getgid()
            member.uname = member.gname = ""
            archive.extract(member, dest, set_attrs=not member.isdir())
            if member.isdir():
                (dest / path).chmod(0o755)  # its owner may change, so it must stay writable


def forget(debs: Iterable[Path]) -> None:
    """Remove fetched files from the cache once what was wanted of them is kept elsewhere."""
    for deb in debs:
        if deb.parent == _archives():
            deb.unlink(missing_ok=True)


def version_key(version: str) -> NativeVersion:
    """Return what sorts Debian versions as dpkg does (deb-version(7))."""
    from debian.debian_support import NativeVersion

    return NativeVersion(version)


@dataclass(frozen=True)
class _SuiteState:
    """apt's private state for one suite."""

    suite: str

    @staticmethod
    def ready(suite: str) -> _SuiteState:
        """Return the state with its lists fetched, and fetched again when they are old."""
        state = _SuiteState(suite)
        with cache.locked(f"apt-{suite}"):
            state._refresh()
        return state

    @property
    def root(self) -> Path:
        return cache.cache_dir() / "apt" / self.suite

    @property
    def config(self) -> Path:
        return self.root / "apt.conf"

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        argv = [program, f"-c={self.config}", *arguments]
        try:
            done = process.run(argv, timeout=_APT_DEADLINE, env=_environment(), cwd=cwd)
        except subprocess.TimeoutExpired:
            raise PackageUnavailable(
                f"{program} {arguments[0]} for {self.suite} did not finish in "
                f"{_APT_DEADLINE:.0f} s; is the mirror reachable?"
            ) from None
        if done.returncode != 0:
            raise PackageUnavailable(_reason(done.stderr, self.suite))
        return done.stdout

    def _refresh(self) -> None:
        stamp = self.root / "fetched"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_AGE:
            return
        for directory in ("lists/partial", "cache/archives/partial", "empty"):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        self.config.write_text(_APT_CONF.format(root=self.root))
        self._write_sources(_KEYRING)
        try:
            with progress.step(f"fetching the package list of {self.suite}"):
                try:
                    self._update()
                except PackageUnavailable as failure:
                    if "NO_PUBKEY" not in str(failure) and "key" not in str(failure):
                        raise
                    self._write_sources(_newer_keyring(self.suite, failure))
                    self._update()
        except PackageUnavailable as failure:
            if not stamp.exists():
                raise
            progress.note(f"{failure}; going on with the list fetched before")
            return
        stamp.touch()

    def _update(self) -> None:
        self._apt("apt-get", "update")

    def _write_sources(self, keyring: Path) -> None:
        if not keyring.exists():
            raise PackageUnavailable(
                f"{keyring} is missing, so nothing fetched could be verified; "
                "install the package debian-archive-keyring"
            )
        line = f"deb [signed-by={keyring}] {mirror().uri} {self.suite} main\n"
        (self.root / "sources.list").write_text(line)

    def packages(self, wanted: Callable[[str], object]) -> list[Package]:
        """Return all versions of the packages whose name `wanted` accepts."""
        with cache.locked(f"apt-{self.suite}"):
            names = [n for n in self._apt("apt-cache", "pkgnames").split() if wanted(n)]
            shown = self._apt("apt-cache", "show", *names) if names else ""
        return parse_index(shown, self.suite)

    def fetch(self, package: Package) -> Path:
        """Return `package`'s file in the cache, fetched and verified if it is not there."""
        final = _archives() / package.file_name
        if final.exists():
            return final
        text = f"fetching {package.name} {package.version} ({package.size / 1e6:.1f} MB)"
        with cache.locked(f"deb-{final.name}"), cache.staging("deb") as directory:
            if final.exists():
                return final
            with progress.step(text) as report:
                self._download(
                    ["download", f"{package.name}={package.version}"],
                    directory,
                    package.size,
                    report,
                )
            made = list(directory.glob("*.deb"))
            if len(made) != 1:
                raise PackageUnavailable(f"apt fetched no file for {package.name}")
            cache.publish(made[0], final)
        return final

    def fetch_closure(self, names: Sequence[str]) -> list[Path]:
        """Return the files of `names` and of all they depend on."""
        request = ["install", "--no-install-recommends", "-y"]
        with cache.locked(f"apt-{self.suite}"):
            plan = parse_uris(self._apt("apt-get", *request, "--print-uris", *names))
            missing = [f for f in plan if not (_archives() / f).exists()]
            if missing:
                with cache.staging("debs") as directory:
                    (directory / "partial").mkdir()
                    text = f"fetching {names[0]} and what it needs ({len(missing)} packages, "
                    size = sum(plan[f] for f in missing)
                    with progress.step(f"{text}{size / 1e6:.0f} MB)") as report:
                        for file in plan.keys() - set(missing):
                            os.link(_archives() / file, directory / file)
                        self._download(
                            [
                                *request,
                                "--download-only",
                                f"-oDir::Cache::archives={directory}",
                                *names,
                            ],
                            directory,
                            sum(plan.values()),
                            report,
                        )
                    for file in missing:
                        cache.publish(directory / file, _archives() / file)
        return [_archives() / file for file in plan]

    def _download(
        self, arguments: list[str], directory: Path, size: int, report: progress.Report
    ) -> None:
        """Run apt-get in `directory`, reporting the bytes that have arrived there."""
        argv = ["apt-get", "-qq", f"-c={self.config}", *arguments]
        error_log = directory / "apt.stderr"
        with (
            open(error_log, "w") as errors,
            process.child(
                argv,
                cwd=directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            ) as apt,
        ):
            give_up = time.monotonic() + _APT_DEADLINE
            while True:
                try:
                    status = apt.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > give_up:
                        raise PackageUnavailable(
                            f"fetching from {self.suite} did not finish in {_APT_DEADLINE:.0f} s"
                        ) from None
                    report(_bytes_below(directory) / max(size, 1))
        if status != 0:
            raise PackageUnavailable(_reason(error_log.read_text(errors="replace"), self.suite))


def parse_index(stanzas: str, suite: str) -> list[Package]:
    """Return the packages that ``apt-cache show`` (or a Packages index) describes."""
    from debian.deb822 import Packages

    fields = ["Package", "Version", "Architecture", "Size"]
    return [
        Package(
            name=field["Package"],
            version=field["Version"],
            architecture=field.get("Architecture", "amd64"),
            suite=suite,
            size=int(field.get("Size", "0")),
        )
        for field in Packages.iter_paragraphs(stanzas, fields, use_apt_pkg=False)
        if "Package" in field and "Version" in field
    ]


def parse_uris(shown: str) -> dict[str, int]:
    """Return file name and size of each line of ``apt-get --print-uris``."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^'[^']*' (\S+\.deb) (\d+)", shown, re.M)}


def _archives() -> Path:
    return cache.cache_dir() / "debs"


def _newer_keyring(suite: str, failure: PackageUnavailable) -> Path:
    """Return the archive's newest keyring, from the machine's own release and verified by its keys.

    A suite newer than the machine may be signed with keys the machine has not got yet; the keyring
    package of its own release gets them by a point release.
    """
    own = mirror().release
    if suite == own:
        raise failure
    deb = _fetch_one("debian-archive-keyring", own)
    directory = cache.cache_dir() / "keyrings" / deb.stem
    if not directory.exists():
        with cache.staging("keyring") as made:
            extract(deb, made / "k")
            cache.publish(made / "k", directory)
    return directory / "usr/share/keyrings/debian-archive-keyring.gpg"


def _reason(stderr: str, suite: str) -> str:
    """Return apt's complaint as one line."""
    lines = [line for line in stderr.splitlines() if line.startswith("E:")]
    text = "; ".join(dict.fromkeys(line[2:].strip() for line in lines)) or stderr.strip()
    if re.search(
        r"Could not (resolve|connect)|Temporary failure|Connection (failed|timed out)", text
    ):
        return f"the Debian mirror can't be reached (asked for {suite})"
    return re.sub(r"\s+", " ", text)[:400] or f"apt failed for {suite}"


def _bytes_below(directory: Path) -> int:
    total = 0
    for file in _files(directory):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue  # apt moved it meanwhile
    return total


def _files(directory: Path) -> Iterable[Path]:
    return [p for p in directory.rglob("*.deb*") if not p.is_symlink()]


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


@functools.cache
def _os_release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return {}
    return {m[1]: m[2] for m in re.finditer(r'^([A-Z_]+)="?([^"\n]*)"?$', text, re.M)}
