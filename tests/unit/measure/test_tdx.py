# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib

from kvmharness.measure.tdx import Mrtd

_PAGE = bytes(range(256)) * 16


def _record(name: bytes, gpa: int) -> bytes:
    """128 bytes: the name at 0, the address at 16, zeros."""
    record = bytearray(128)
    record[: len(name)] = name
    record[16:24] = gpa.to_bytes(8, "little")
    return bytes(record)


def test_nothing_measured_is_the_hash_of_nothing() -> None:
    assert Mrtd().hexdigest() == hashlib.sha384().hexdigest()


def test_an_unmeasured_page_is_its_address_alone() -> None:
    mrtd = Mrtd()
    mrtd.add_page(0x12345000, None)
    assert mrtd.pages == 1
    expected = _record(b"MEM.PAGE.ADD", 0x12345000)
    assert mrtd.hexdigest() == hashlib.sha384(expected).hexdigest()


def test_a_measured_page_is_followed_by_its_sixteen_chunks() -> None:
    mrtd = Mrtd()
    mrtd.add_page(0x1000, _PAGE)
    expected = _record(b"MEM.PAGE.ADD", 0x1000)
    for chunk in range(16):
        expected += _record(b"MR.EXTEND", 0x1000 + 256 * chunk)
        expected += _PAGE[256 * chunk : 256 * (chunk + 1)]
    assert len(expected) == 128 + 16 * 384
    assert mrtd.hexdigest() == hashlib.sha384(expected).hexdigest()


def test_adding_a_section_before_extending_it_gives_another_digest() -> None:
    """As some tools do, and Linux does not: per page, add then extend."""
    linux, other = Mrtd(), Mrtd()
    for gpa in (0, 4096):
        linux.add_page(gpa, _PAGE)
        other.page_add(gpa)
    for gpa in (0, 4096):
        for offset in range(0, 4096, 256):
            other.extend(gpa + offset, _PAGE[offset : offset + 256])
    assert linux.hexdigest() != other.hexdigest()


def test_the_digest_can_be_asked_in_between() -> None:
    mrtd = Mrtd()
    mrtd.add_page(0, None)
    before = mrtd.hexdigest()
    assert mrtd.hexdigest() == before
    mrtd.add_page(4096, None)
    assert mrtd.hexdigest() != before
