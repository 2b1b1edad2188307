# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib

from kvmharness.measure.snp import LaunchDigest


def test_a_digest_begins_as_zeros() -> None:
    assert LaunchDigest().hexdigest() == "00" * 48


def test_a_normal_page_is_page_info_hashed_as_the_abi_lays_it_out() -> None:
    page = bytes(range(256)) * 16
    digest = LaunchDigest()
    digest.update(1, 0x12345000, page)
    info = bytearray(0x70)
    info[48:96] = hashlib.sha384(page).digest()
    info[96:98] = (0x70).to_bytes(2, "little")
    info[98] = 1
    info[104:112] = (0x12345000).to_bytes(8, "little")
    assert digest.hexdigest() == hashlib.sha384(info).hexdigest()


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
