# SPDX-License-Identifier: MIT
"""What is said of own code before anything is built."""

from __future__ import annotations

import pytest

from kvmharness.errors import HarnessError
from kvmharness.machine.entry import CODE_GPA, EntryPlan
from kvmharness.machine.payload import Mode


def plan(mode: str, gpa: int = CODE_GPA, entry: int | None = None, **registers: int) -> EntryPlan:
    return EntryPlan.of_code(b"\xf4", mode, None, gpa, entry, registers)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("real", Mode.REAL),
        ("protected", Mode.PROTECTED),
        ("long", Mode.LONG_CPL0),
        ("long-cpl0", Mode.LONG_CPL0),
        ("long-cpl3", Mode.LONG_CPL3),
    ],
)
def test_modes_by_name(name: str, mode: Mode) -> None:
    assert plan(name).mode is mode


def test_a_mode_there_is_not() -> None:
    with pytest.raises(ValueError, match="'virtual' is not a valid Mode"):
        plan("virtual")


def test_code_begins_where_it_is_loaded_and_has_a_stack_below() -> None:
    there = plan("long", 0x20_0000)
    assert (there.load_gpa, there.entry) == (0x20_0000, 0x20_0000)
    assert there.registers == {"rsp": 0x20_0000}


def test_entry_and_registers_are_as_given() -> None:
    there = plan("long", 0x20_0000, 0x20_0200, rsp=0x9000, rsi=7)
    assert (there.load_gpa, there.entry) == (0x20_0000, 0x20_0200)
    assert there.registers == {"rsp": 0x9000, "rsi": 7}


def test_a_register_there_is_not() -> None:
    with pytest.raises(HarnessError, match=r"no register 'rzx': code takes rax, .*rflags"):
        plan("long", rzx=1)


@pytest.mark.parametrize(
    ("mode", "last"), [("real", 0x10_FFEF), ("protected", 0xFFFF_FFFF), ("long", 2**40)]
)
def test_where_a_mode_can_be_entered(mode: str, last: int) -> None:
    assert plan(mode, last).entry == last
    if mode != "long":
        with pytest.raises(HarnessError, match=f"{mode} mode can't be entered at {last + 1:#x}"):
            plan(mode, last + 1)
        with pytest.raises(HarnessError, match="can't be entered"):
            plan(mode, 0, last + 1)
