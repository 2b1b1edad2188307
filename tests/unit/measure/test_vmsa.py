# SPDX-License-Identifier: MIT
"""A VMSA's layout, against offsets of the APM's table, and how two of them are told apart."""

from __future__ import annotations

import pytest

from kvmharness.measure.vmsa import VMSA_SIZE, differences, make_vmsa


# AMD64 APM volume 2, table B-4: one field of each region, and the last of all.
@pytest.mark.parametrize(
    ("name", "value", "offset", "there"),
    [
        ("cs.selector", 0xF000, 0x10, "00f0"),
        ("tr.base", 0x1122334455667788, 0x98, "8877665544332211"),
        ("efer", 0x1000, 0xD0, "0010000000000000"),
        ("rip", 0xFFF0, 0x178, "f0ff000000000000"),
        ("rsp", 1, 0x1D8, "0100000000000000"),
        ("r15", 2, 0x378, "0200000000000000"),
        ("sev_features", 0x21, 0x3B0, "2100000000000000"),
        ("xcr0", 7, 0x3E8, "0700000000000000"),
        ("ymm", b"\xaa" * 256, 0x570, "aa" * 256),
    ],
)
def test_a_field_is_where_the_table_has_it(
    name: str, value: int | bytes, offset: int, there: str
) -> None:
    page = make_vmsa({name: value})
    data = bytes.fromhex(there)
    assert page[offset : offset + len(data)] == data
    assert page.count(0) == VMSA_SIZE - len(data) + data.count(0)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(KeyError):
        make_vmsa({"cs.color": 1})


def test_alike_pages_do_not_differ() -> None:
    assert list(differences(make_vmsa({"rip": 1}), make_vmsa({"rip": 1}))) == []


def test_differences_name_the_field_and_both_values() -> None:
    wanted = make_vmsa({"rip": 0xFFF0, "xcr0": 7})
    had = bytearray(make_vmsa({"rip": 0xFFF0, "xcr0": 1}))
    had[0xFFF] = 5
    assert list(differences(wanted, bytes(had))) == [
        "xcr0 (0x3e8): 0x7 wanted, 0x1 there",
        "byte 0xfff: 0x0 wanted, 0x5 there",
    ]
