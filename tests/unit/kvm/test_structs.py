# SPDX-License-Identifier: MIT
"""Typed structs: what fits is written where the kernel reads it, what doesn't is an error."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness.kvm import system, vcpu, vm  # every Struct class is made by importing these
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.debug import DebugRegs
from kvmharness.kvm.events import ExceptionEvent, VcpuEvents
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fpu import Fpu, Xcr, Xcrs, Xsave
from kvmharness.kvm.irqchip import IrqchipState
from kvmharness.kvm.registers import Segment, Sregs2
from kvmharness.kvm.run_page import KvmRun
from kvmharness.kvm.structs import Struct
from kvmharness.launch import psp, sev_structs, tdx

MODULES = (system, vcpu, vm, psp, sev_structs, tdx)


def all_structs(of: type[Struct] = Struct) -> Iterator[type[Struct]]:
    for kind in of.__subclasses__():
        if kind.__module__.startswith("kvmharness."):
            yield kind
        yield from all_structs(kind)


KINDS = sorted(all_structs(), key=lambda kind: kind.__name__)


def test_there_are_some() -> None:
    assert len(KINDS) > 45


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_class_has_the_fields_of_the_binding(kind: type[Struct]) -> None:
    declared = dict(kind.pointer_type.item.fields)
    kept = {name for name in declared if not name.startswith(("pad", "reserve", "dummy", "rsvd"))}
    if kind.__name__ == "Redirection":
        kept.remove("fields")  # the same bits by their names
    if kind is KvmRun:  # the exits have types of their own
        names = list(declared)
        kept -= set(names[names.index("hw") : names.index("kvm_valid_regs")])
    assert set(kind.fields) == kept


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_class_copies_and_pickles_all_of_its_bytes(kind: type[Struct]) -> None:
    data = bytes(range(1, 256)) * 17
    made = kind.from_bytes(data[: ffi.sizeof(kind.pointer_type.item)])
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert bytes(other) == bytes(made)
        assert other.pointer != made.pointer
    assert made != kind()
    for name in kind.fields:
        assert f"{name}=" in repr(made)


def test_bytes_are_those_of_the_kernels_struct() -> None:
    clock = ClockData(clock=1, flags=2, realtime=2**64 - 1)
    assert bytes(clock)[:24] == (
        (1).to_bytes(8, "little") + (2).to_bytes(8, "little") + b"\xff" * 8
    )
    assert ClockData.from_bytes(bytes(clock)) == clock
    with pytest.raises(ValueError, match="ClockData has 48 bytes; 47 were given"):
        ClockData.from_bytes(bytes(47))


def test_repr_is_short_and_in_hex() -> None:
    assert repr(ClockData(clock=5, flags=4, host_tsc=0x1234)) == (
        "ClockData(clock=5, flags=4, realtime=0, host_tsc=0x1234)"
    )
    assert repr(DebugRegs(db=[1, 0, 0, 16])).startswith("DebugRegs(db=[1, 0, 0, 0x10], dr6=0")


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_that_does_not_fit_is_an_error_with_the_fields_name(value: int) -> None:
    clock = ClockData(clock=7)
    with pytest.raises(OverflowError, match=r"kvm_clock_data\.clock: "):
        clock.clock = value
    with pytest.raises(TypeError, match=r"kvm_clock_data\.clock: "):
        clock.clock = "1"  # type: ignore[assignment]
    assert clock.clock == 7


def test_a_misspelt_field_is_an_error_here_and_for_mypy() -> None:
    clock = ClockData()
    with pytest.raises(AttributeError):
        clock.clocks = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        clock.clocks  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(TypeError, match="ClockData has no field clocks"):
        ClockData(clocks=1)  # type: ignore[call-arg]


def test_an_array_has_the_kernels_length() -> None:
    registers = DebugRegs(db=[1, 2, 3, 4])
    assert registers.db == [1, 2, 3, 4]
    registers.db[-1] = 9
    registers.db[0:2] = [7, 8]
    assert list(registers.db) == [7, 8, 3, 9]
    assert registers.db[1:3] == [8, 3]
    assert bytes(registers)[24:32] == (9).to_bytes(8, "little")
    with pytest.raises(ValueError, match="db: 3 values for 4 places"):
        registers.db = [1, 2, 3]
    for index in (4, -5):
        with pytest.raises(IndexError, match="db has 4 elements"):
            registers.db[index] = 0
        with pytest.raises(IndexError, match="db has 4 elements"):
            registers.db[index]
    with pytest.raises(OverflowError, match=r"db\[1\]: "):
        registers.db[1] = -1
    with pytest.raises(TypeError, match="db has 4 elements, always"):
        registers.db.append(1)
    with pytest.raises(TypeError, match="db has 4 elements, always"):
        del registers.db[0]
    assert registers != DebugRegs(db=[7, 8, 3, 0])


def test_rows_of_bytes_have_their_length() -> None:
    fpu = Fpu()
    fpu.xmm[3] = b"0123456789abcdef"
    assert fpu.xmm[3] == b"0123456789abcdef"
    assert fpu.xmm[2] == bytes(16)
    for wrong in (b"short", bytes(17)):
        with pytest.raises(ValueError, match=r"xmm\[3\] has 16 bytes"):
            fpu.xmm[3] = wrong
    assert fpu.xmm[3] == b"0123456789abcdef"


def test_what_is_inside_refers_to_its_struct_and_is_copied_into_another() -> None:
    sregs = Sregs2()
    sregs.cs.selector = 8
    assert bytes(sregs) != bytes(len(bytes(sregs)))
    other = Sregs2(cs=sregs.cs)
    assert other.cs == Segment(selector=8)
    other.cs.selector = 16
    assert sregs.cs.selector == 8
    with pytest.raises(TypeError, match="cs: a Segment is required, not dict"):
        sregs.cs = {"selector": 8}  # type: ignore[assignment]
    with pytest.raises(TypeError, match="gdt: a DescriptorTable is required, not Segment"):
        sregs.gdt = Segment()  # type: ignore[assignment]


def test_what_is_inside_keeps_its_struct_alive() -> None:
    segment: Any = Sregs2(cs=Segment(base=2**63)).cs
    for _ in range(1000):
        Sregs2(cs=Segment(base=1))  # would get the memory, were it free
    assert segment.base == 2**63


def test_an_array_of_structs() -> None:
    xcrs = Xcrs(nr_xcrs=1)
    xcrs.xcrs[0] = Xcr(xcr=0, value=7)
    xcrs.xcrs[1].value = 9
    assert [xcr.value for xcr in xcrs.xcrs][:3] == [7, 9, 0]


def test_a_struct_without_a_tag_can_be_made_too() -> None:
    event = ExceptionEvent(nr=14, error_code=2)
    events = VcpuEvents(exception=event)
    assert (events.exception.nr, events.exception.error_code) == (14, 2)
    assert events.exception == event


def test_a_union_is_read_by_either_name() -> None:
    state = IrqchipState(chip_id=2)
    state.ioapic.redirtbl[5].bits = 0x1_0031
    assert state.ioapic.redirtbl[5].vector == 0x31
    assert state.ioapic.redirtbl[5].masked
    assert "redirtbl" in repr(state)
    assert "imr" in repr(IrqchipState(chip_id=0))


def test_a_struct_is_no_key() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(ClockData())
    assert ClockData() != object()


def test_an_xsave_area_is_bytes_and_copies() -> None:
    xsave = Xsave(bytearray(range(256)) * 16)
    assert Xsave.from_bytes(bytes(xsave)) == xsave
    assert Xsave.from_bytes(memoryview(bytes(xsave))) == xsave
    for other in (copy.copy(xsave), copy.deepcopy(xsave), pickle.loads(pickle.dumps(xsave))):
        assert other == xsave
        other.set_xmm(3, b"x" * 16)
        assert (other.xmm(3), xsave.xmm(3)) == (b"x" * 16, bytes(range(208, 224)))
        assert other != xsave


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_said_to_be_a_number_is_one(kind: type[Struct]) -> None:
    """It is read without a look at what the binding gives."""
    made = kind()
    for name, annotation in kind.__annotations__.items():
        if annotation == "int":
            assert isinstance(getattr(made, name), int), name
