# SPDX-License-Identifier: MIT
"""Flags that are enums have the kernel's numbers, all of them."""

from __future__ import annotations

from enum import EnumType, IntEnum, IntFlag

import pytest

from kvmharness.kvm import constants, flags, run_page
from kvmharness.kvm.ffi import lib

PREFIX: dict[type[IntFlag] | type[IntEnum], str] = {
    flags.MemFlag: "KVM_MEM_",
    flags.GuestMemfdFlag: "GUEST_MEMFD_FLAG_",
    flags.MemoryAttribute: "KVM_MEMORY_ATTRIBUTE_",
    flags.IrqfdFlag: "KVM_IRQFD_FLAG_",
    flags.IoeventfdFlag: "KVM_IOEVENTFD_FLAG_",
    flags.MpState: "KVM_MP_STATE_",
    flags.SystemEvent: "KVM_SYSTEM_EVENT_",
    flags.CpuidFlag: "KVM_CPUID_FLAG_",
    flags.VcpuEventFlag: "KVM_VCPUEVENT_VALID_",
    flags.InterruptShadow: "KVM_X86_SHADOW_INT_",
    flags.MsrExitReason: "KVM_MSR_EXIT_REASON_",
    flags.MsrFilterFlag: "KVM_MSR_FILTER_",
    flags.MemoryExitFlag: "KVM_MEMORY_EXIT_FLAG_",
    flags.DisableExits: "KVM_X86_DISABLE_EXITS_",
    flags.DirtyLogFlag: "KVM_DIRTY_LOG_",
    flags.RunFlag: "KVM_RUN_X86_",
    run_page.Sync: "KVM_SYNC_X86_",
}

#: Numbers of such a name that are none of the flags.
OTHERS = {
    "KVM_MSR_EXIT_REASON_VALID_MASK",
    "KVM_SYNC_X86_VALID_FIELDS",
    "KVM_DIRTY_LOG_PAGE_OFFSET",
    *("KVM_MSR_FILTER_DEFAULT_ALLOW", "KVM_MSR_FILTER_DEFAULT_DENY", "KVM_MSR_FILTER_VALID_MASK"),
    *("KVM_MSR_FILTER_MAX_BITMAP_SIZE", "KVM_MSR_FILTER_MAX_RANGES"),
    "KVM_MSR_FILTER_RANGE_VALID_MASK",
}


@pytest.mark.parametrize("kind", PREFIX, ids=lambda kind: kind.__name__)
def test_a_kind_of_flags_is_the_kernels(kind: type[IntFlag] | type[IntEnum]) -> None:
    prefix = PREFIX[kind]
    known = {
        name.removeprefix(prefix): int(getattr(lib, name))
        for name in dir(lib)
        if name.startswith(prefix) and name not in OTHERS
    }
    assert known
    assert {flag.name: flag.value for flag in kind} == known


def test_each_kind_is_looked_at() -> None:
    kinds = {kind for kind in vars(flags).values() if isinstance(kind, EnumType)}
    assert kinds - {IntEnum, IntFlag} <= set(PREFIX)


def test_constants_are_the_kernels_numbers_and_nothing_else() -> None:
    assert constants.KVM_EXIT_HLT == lib.KVM_EXIT_HLT == 5
    assert constants.KVM_MP_STATE_HALTED == flags.MpState.HALTED
    names = dir(constants)
    assert len(names) > 500
    for name in names:
        number: object = getattr(constants, name)
        assert isinstance(number, int), name
        assert number == getattr(lib, name)
    for name in ("KVM_EXIT_HTL", "kvmh_run", "__all__", "nothing"):
        with pytest.raises(AttributeError, match=f"no number called {name}"):
            getattr(constants, name)
