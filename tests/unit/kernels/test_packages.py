# SPDX-License-Identifier: MIT
"""Finding the mirror, reading indexes, ordering versions: from fixed text, without a network."""

from __future__ import annotations

import io
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from kvmharness.kernels import packages

_TARGETS = """\
MetaKey: main/binary-amd64/Packages
Repo-URI: https://third.party.example/apt/
Codename: nodistro
Release: nodistro
Origin: Node Source

MetaKey: main/binary-amd64/Packages
Repo-URI: http://mirror.example/debian-security/
Codename: bookworm-security
Release: bookworm-security
Origin: Debian

MetaKey: main/i18n/Translation-en
Repo-URI: http://mirror.example/translations/
Codename: bookworm
Release: bookworm
Origin: Debian

MetaKey: main/binary-amd64/Packages
Repo-URI: http://mirror.example/debian/
Codename: bookworm
Release: bookworm
Origin: Debian
"""


def test_the_mirror_is_the_archive_of_the_machines_release() -> None:
    found = packages.parse_mirror(_TARGETS, "bookworm")
    assert found == packages.Mirror("http://mirror.example/debian/", "bookworm")


def test_before_the_first_update_the_release_alone_tells() -> None:
    text = "MetaKey: main/binary-amd64/Packages\nRepo-URI: http://m/debian/\nRelease: bookworm\n"
    assert packages.parse_mirror(text, "bookworm") == packages.Mirror(
        "http://m/debian/", "bookworm"
    )


def test_a_mirror_named_by_suite_is_found_by_its_code_name() -> None:
    text = _TARGETS.replace("Release: bookworm\n", "Release: stable\n")
    found = packages.parse_mirror(text, "bookworm")
    assert found is not None
    assert found.uri == "http://mirror.example/debian/"


def test_another_distributions_archive_is_no_mirror() -> None:
    assert packages.parse_mirror(_TARGETS.replace("Debian", "Ubuntu"), "bookworm") is None


def test_index_stanzas_become_packages() -> None:
    text = (
        "Package: linux-libc-dev\nVersion: 7.3.4-1~bpo13+1\nArchitecture: all\nSize: 2655684\n"
        "Description: headers\n Package: not this one\n\nPackage: halfway\n"
    )
    (package,) = packages.parse_index(text, "trixie-backports")
    assert (package.name, package.version, package.size) == (
        "linux-libc-dev",
        "7.3.4-1~bpo13+1",
        2655684,
    )
    assert package.suite == "trixie-backports"


def test_file_names_are_apts() -> None:
    package = packages.Package("qemu-system-x86", "1:10.0.13+ds-0", "amd64", "trixie", 1)
    assert package.file_name == "qemu-system-x86_1%3a10.0.13+ds-0_amd64.deb"


def test_uris_are_read_from_apts_plan() -> None:
    plan = (
        "Reading package lists...\n"
        "'http://m/pool/make_4.4.1-2_amd64.deb' make_4.4.1-2_amd64.deb 463104 SHA256:ab\n"
    )
    assert packages.parse_uris(plan) == {"make_4.4.1-2_amd64.deb": 463104}


# deb-version(7), and what dpkg --compare-versions says of each neighbouring pair.
_ASCENDING = [
    "1.0~~",
    "1.0~rc1",
    "1.0",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1.1",
    "1.0a",
    "1.0+deb13",
    "1.0.1",
    "1.9",
    "1.10",
    "6.12.94+deb13",
    "6.12.107+deb13",
    "7.3.4-1~bpo13+1",
    "7.3.4-1",
    "1:0.1",
]


@pytest.mark.parametrize(("older", "newer"), list(pairwise(_ASCENDING)))
def test_versions_sort_as_dpkg_sorts_them(older: str, newer: str) -> None:
    assert packages.version_key(older) < packages.version_key(newer)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("W: x\nE: Unable to locate package nosuch\n", "Unable to locate package nosuch"),
        (
            "E: Failed to fetch http://m/x  Could not resolve 'm'\n",
            "the Debian mirror can't be reached (asked for trixie)",
        ),
        ("", "apt failed for trixie"),
    ],
)
def test_apts_complaint_is_one_line(stderr: str, reason: str) -> None:
    assert packages._reason(stderr, "trixie") == reason


def _tar(*members: tuple[str, bytes, str | None]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, link in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o555
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def test_only_what_is_kept_is_unpacked(tmp_path: Path) -> None:
    stream = _tar(
        ("./usr/", b"", None),
        ("./usr/share/doc/x", b"words", None),
        ("./usr/bin/x", b"code", None),
        ("./usr/bin/y", b"", "/usr/bin/x"),
    )
    packages._extract_stream(stream, tmp_path, lambda path: not path.startswith("usr/share"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bin", "usr", "x", "y"]
    assert (tmp_path / "usr/bin/x").read_bytes() == b"code"
    # A link of a root's own may be absolute, and a directory must stay writable for its new owner.
    assert (tmp_path / "usr/bin/y").readlink() == Path("/usr/bin/x")
    assert (tmp_path / "usr").stat().st_mode & 0o777 == 0o755
