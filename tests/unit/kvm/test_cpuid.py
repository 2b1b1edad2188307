# SPDX-License-Identifier: MIT
"""A CPUID is a list of entries and the kernel's struct with as many of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from kvmharness.kvm.cpuid import Cpuid, CpuidEntry
from kvmharness.kvm.ffi import ffi

LEAVES = [
    CpuidEntry(0, eax=0x1F),
    CpuidEntry(7, 1, 2, 3, 4, 5, 6),
    CpuidEntry(0xFFFF_FFFF, eax=0xFFFF_FFFF),
]


def test_its_bytes_are_the_kernels_struct() -> None:
    data = bytes(Cpuid(LEAVES))
    struct = ffi.new("struct kvm_cpuid2 *", {"entries": 3})
    ffi.buffer(struct, len(data))[:] = data
    assert struct.nent == 3
    seventh = struct.entries[1]
    assert (seventh.function, seventh.index, seventh.flags) == (7, 1, 6)
    assert (seventh.eax, seventh.ebx, seventh.ecx, seventh.edx) == (2, 3, 4, 5)
    assert Cpuid.from_bytes(data) == LEAVES
    assert Cpuid.from_bytes(bytes(Cpuid())) == []


def test_it_is_a_list() -> None:
    cpuid = Cpuid(LEAVES)
    assert (len(cpuid), cpuid.nent, cpuid[1], cpuid[-1]) == (3, 3, LEAVES[1], LEAVES[2])
    assert cpuid[1:] == LEAVES[1:]
    assert isinstance(cpuid[1:], Cpuid)
    cpuid[0] = CpuidEntry(1)
    del cpuid[1]
    cpuid.insert(0, CpuidEntry(2))
    cpuid.append(CpuidEntry(3))
    assert [entry.function for entry in cpuid] == [2, 1, 0xFFFF_FFFF, 3]
    cpuid[1:3] = [CpuidEntry(9)]
    assert [entry.function for entry in cpuid] == [2, 9, 3]
    assert int.from_bytes(bytes(cpuid)[:4], "little") == 3


def test_nothing_else_comes_in() -> None:
    cpuid = Cpuid(LEAVES)
    wrong: Any
    for wrong in (None, 7, (7, 0), b"entry"):
        with pytest.raises(TypeError, match=r"^cpuid\[0\]: a CpuidEntry is required, not "):
            cpuid[0] = wrong
        with pytest.raises(TypeError, match=r"^cpuid\[0\]: a CpuidEntry is required, not "):
            cpuid.append(wrong)
    for wrong in (None, 7, "text", b"bytes"):
        with pytest.raises(TypeError, match=r"^a Cpuid is required, not "):
            Cpuid(wrong)
    assert cpuid == LEAVES


def test_a_leaf_is_found_by_its_numbers() -> None:
    cpuid = Cpuid(LEAVES)
    assert cpuid.leaf(7, 1) == LEAVES[1]
    assert cpuid.leaf(0) == LEAVES[0]
    assert cpuid.leaf(7) is None


def test_copies_are_equal_and_apart() -> None:
    cpuid = Cpuid(LEAVES)
    for other in (copy.copy(cpuid), copy.deepcopy(cpuid), pickle.loads(pickle.dumps(cpuid))):
        assert other == cpuid
        other.append(CpuidEntry(1))
        assert other != cpuid
    assert cpuid == LEAVES
    assert cpuid == tuple(LEAVES)
    assert cpuid != LEAVES[:2]


def test_an_entry_shows_what_is_not_zero() -> None:
    assert repr(CpuidEntry(0x8000_0008, eax=0x3028)) == "CpuidEntry(0x80000008, eax=0x3028)"
    assert repr(Cpuid([CpuidEntry(7, 1)])) == "Cpuid([CpuidEntry(0x7, index=0x1)])"
    assert eval(repr(Cpuid(LEAVES))) == LEAVES


def test_a_number_is_no_bytes() -> None:
    with pytest.raises(TypeError, match="data: bytes are required, not int"):
        Cpuid.from_bytes(1 << 60)  # type: ignore[arg-type]
