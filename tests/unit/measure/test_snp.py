# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from kvmharness.measure.snp import LaunchDigest

#: Page type, gpa (bytes), and whether its contents are measured: a little of each type.
LAUNCH = (
    (1, 0x12345000, True),
    (3, 0x1000, False),
    (4, 0x2000, False),
    (5, 0x3000, False),
    (6, 0x4000, False),
    (2, 0xFFFFFFFFF000, True),
)


def test_a_digest_begins_as_zeros() -> None:
    assert LaunchDigest().hexdigest() == "00" * 48


def test_a_launch_of_every_page_type_is_what_others_compute() -> None:
    """The value is sev-snp-measure's (0.0.13, its GCTX), for the same pages in the same order."""
    page = bytes(range(256)) * 16
    digest = LaunchDigest()
    for page_type, gpa, contents in LAUNCH:
        digest.update(page_type, gpa, page if contents else b"")
    assert digest.hexdigest() == (
        "dde21726698fa78acd84d806d3e3de77f24fc22718e1b77e"
        "f3578e3b7761e805ce3bfe30d91adb257c9d26ace274d2ad"
    )


def test_it_follows_sev_snp_measure_page_by_page() -> None:
    gctx = pytest.importorskip(
        "sevsnpmeasure.gctx", reason="sev-snp-measure is not installed (extra dev)"
    )
    theirs, ours = gctx.GCTX(), LaunchDigest()
    for number in range(64):
        page, gpa = number.to_bytes(2, "little") * 2048, 0xFFC0_0000 + number * 4096
        theirs.update_normal_pages(gpa, page)
        ours.update(1, gpa, page)
        assert ours.hexdigest() == theirs.hex_ld()


def test_contents_of_other_types_are_not_measured_but_their_place_is() -> None:
    digests = set()
    for page_type, gpa, byte in ((4, 0, b"a"), (4, 0, b"b"), (4, 4096, b"a"), (3, 0, b"a")):
        digest = LaunchDigest()
        digest.update(page_type, gpa, byte * 4096)
        digests.add(digest.hexdigest())
    assert len(digests) == 3


def test_the_order_of_pages_counts() -> None:
    one, other = LaunchDigest(), LaunchDigest()
    for digest, order in ((one, (0, 4096)), (other, (4096, 0))):
        for gpa in order:
            digest.update(1, gpa, b"\0" * 4096)
    assert one.hexdigest() != other.hexdigest()
