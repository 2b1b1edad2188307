# SPDX-License-Identifier: MIT
"""Which kernel a series names, from a fixed listing; taking an image apart."""

from __future__ import annotations

import lzma
import struct

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.kernels import kernels
from kvmharness.kernels.packages import Package


def _packages(suite: str, version: str, *names: str) -> list[Package]:
    return [Package(name, version, "amd64", suite, 1) for name in names]


# As Debian had it one day: 6.18's headers gone, 6.19 in part, 7.3 split into three packages.
_LISTING = [
    *_packages("trixie", "6.12.94-1", "linux-image-6.12.94+deb13-amd64"),
    *_packages(
        "trixie",
        "6.12.107-1",
        "linux-image-6.12.107+deb13-amd64",
        "linux-headers-6.12.107+deb13-amd64",
        "linux-image-6.12.107+deb13-cloud-amd64",
        "linux-image-6.12.107+deb13-rt-amd64",
        "linux-image-6.12.107+deb13-amd64-dbg",
        "linux-image-amd64",
    ),
    *_packages("bookworm-backports", "6.12.95-1~bpo12+1", "linux-image-6.12.95+deb12-amd64"),
    *_packages("bookworm", "6.1.176-1", "linux-image-6.1.0-50-amd64"),
    *_packages("trixie-backports", "6.18.5-1~bpo13+1", "linux-image-6.18.5+deb13-amd64"),
    *_packages("trixie-backports", "6.18.15-1~bpo13+1", "linux-image-6.18.15+deb13-amd64"),
    *_packages(
        "trixie-backports",
        "6.19.14-1~bpo13+1",
        "linux-image-6.19.14+deb13-amd64",
        "linux-binary-6.19.14+deb13-amd64",
    ),
    *_packages(
        "testing",
        "7.3.9-1",
        "linux-image-7.3.9+deb14-amd64",
        "linux-binary-7.3.9+deb14-amd64",
        "linux-modules-7.3.9+deb14-amd64",
        "linux-headers-7.3.9+deb14-amd64",
    ),
    *_packages(
        "trixie-backports",
        "7.3.4-1~bpo13+1",
        "linux-image-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
        "linux-headers-7.3.4+deb13-amd64",
    ),
]


@pytest.mark.parametrize(
    ("wanted", "release", "parts"),
    [
        ("6.12", "6.12.107+deb13-amd64", ("image",)),
        ("6.12.94", "6.12.94+deb13-amd64", ("image",)),
        ("6.18", "6.18.15+deb13-amd64", ("image",)),
        # Not 7.3.9: it is built for a release newer than the build root.
        ("7.3", "7.3.4+deb13-amd64", ("binary", "modules")),
        ("7.3.9+deb14-amd64", "7.3.9+deb14-amd64", ("binary", "modules")),
        ("newest", "7.3.4+deb13-amd64", ("binary", "modules")),
        ("6.1", "6.1.0-50-amd64", ("image",)),
    ],
)
def test_a_series_names_its_newest_release(
    wanted: str, release: str, parts: tuple[str, ...]
) -> None:
    chosen = kernels.choose(wanted, kernels.parse_candidates(_LISTING))
    assert (chosen.release, chosen.parts) == (release, parts)


def test_headers_make_a_release_preferred() -> None:
    listing = [*_LISTING, *_packages("trixie", "6.12.200-1", "linux-image-6.12.200+deb13-amd64")]
    chosen = kernels.choose("6.12", kernels.parse_candidates(listing))
    assert chosen.release == "6.12.107+deb13-amd64"
    assert chosen.header_packages == [
        "linux-headers-6.12.107+deb13-amd64",
        "linux-headers-6.12.107+deb13-common",
        "linux-kbuild-6.12.107+deb13",
    ]


def test_a_binary_without_its_modules_is_no_kernel() -> None:
    with pytest.raises(MissingCapability, match=r"kernel 6\.19: the archive has only 6\.1, 6\.12"):
        kernels.choose("6.19", kernels.parse_candidates(_LISTING))


@pytest.mark.parametrize("pvh", [True, False])
def test_a_vmlinux_is_taken_out_of_its_image_if_qemu_can_start_it(pvh: bool) -> None:
    note = struct.pack("<III", 4, 8, 18) + b"Xen\0" + bytes(8)
    vmlinux = b"\x7fELF" + bytes(100) + (note if pvh else b"")
    payload = lzma.compress(vmlinux) + struct.pack("<I", len(vmlinux))
    image = bytearray(5 * 512)
    image[0x1F1] = 4  # setup sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    assert kernels.unpack_vmlinux(bytes(image) + bytes(16) + payload) == (vmlinux if pvh else None)


@pytest.mark.parametrize("junk", [b"", b"\x7fELF", bytes(4096)])
def test_what_is_no_image_is_left_as_it_is(junk: bytes) -> None:
    assert kernels.unpack_vmlinux(junk) is None
