# SPDX-License-Identifier: MIT
"""Flags that are enums have the kernel's numbers, all of them."""

from __future__ import annotations

from enum import IntFlag

import pytest

from kvmharness.kvm import flags
from kvmharness.kvm.ffi import lib

PREFIX: dict[type[IntFlag], str] = {
    flags.MemFlag: "KVM_MEM_",
    flags.GuestMemfdFlag: "GUEST_MEMFD_FLAG_",
    flags.MemoryAttribute: "KVM_MEMORY_ATTRIBUTE_",
    flags.IrqfdFlag: "KVM_IRQFD_FLAG_",
    flags.IoeventfdFlag: "KVM_IOEVENTFD_FLAG_",
}


@pytest.mark.parametrize("kind", PREFIX, ids=lambda kind: kind.__name__)
def test_a_kind_of_flags_is_the_kernels(kind: type[IntFlag]) -> None:
    prefix = PREFIX[kind]
    known = {
        name.removeprefix(prefix): int(getattr(lib, name))
        for name in dir(lib)
        if name.startswith(prefix)
    }
    assert known
    assert {flag.name: flag.value for flag in kind} == known
