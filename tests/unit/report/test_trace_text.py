# SPDX-License-Identifier: MIT
"""Trace entries as lines: arguments, outcome, what the kernel changed, repetitions."""

from __future__ import annotations

from typing import Any

import pytest

from kvmharness.report.trace_text import line, lines


def entry(name: str, before: Any = None, after: Any = None, **values: Any) -> dict[str, Any]:
    base = {"fd": 5, "ioctl": name, "before": before, "after": after, "ret": 0, "errno": "ok"}
    return base | values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (entry("KVM_CREATE_VM", 4, ret=7), "fd 5   KVM_CREATE_VM 4 = 7"),
        (entry("KVM_GET_API_VERSION", ret=12), "fd 5   KVM_GET_API_VERSION = 12"),
        (
            entry("KVM_CREATE_GUEST_MEMFD", {"size": 4095, "flags": 0}, ret=-1, errno="EINVAL"),
            "fd 5   KVM_CREATE_GUEST_MEMFD size=0xfff = EINVAL",
        ),
        (
            entry(
                "KVM_MEMORY_ENCRYPT_OP",
                {"gfn_start": 1, "len": 8192, "type": 1},
                {"gfn_start": 2, "len": 4096, "type": 1},
                fw_error=0x16,
            ),
            "fd 5   KVM_MEMORY_ENCRYPT_OP gfn_start=1 len=0x2000 type=1 = 0 (firmware error 0x16)"
            "  -> gfn_start=2 len=0x1000",
        ),
        (
            entry("KVM_GET_CPUID2", {"entries": [{"function": 1}] * 9}),
            "fd 5   KVM_GET_CPUID2 entries=[9 entries] = 0",
        ),
        (
            entry("mmap", {"size": 4096}, fd=None, ret=0x7F00_0000_0000),
            "       mmap size=0x1000 = 0x7f0000000000",
        ),
    ],
)
def test_a_line(given: dict[str, Any], expected: str) -> None:
    assert line(given) == expected


def test_a_long_argument_is_cut() -> None:
    assert len(line(entry("KVM_X", {"data": "ab" * 500}))) < 200


def test_repetitions_are_counted_and_the_rest_is_told() -> None:
    entries = [entry("KVM_A"), entry("KVM_B"), entry("KVM_B"), entry("KVM_B"), entry("KVM_C")]
    assert lines(entries) == [
        "fd 5   KVM_A = 0",
        "fd 5   KVM_B = 0   (x 3)",
        "fd 5   KVM_C = 0",
    ]
    assert lines(entries, last=2)[0] == "... 3 earlier calls"
    assert len(lines(entries, last=2)) == 3
    assert lines([]) == []
