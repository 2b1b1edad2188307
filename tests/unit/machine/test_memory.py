# SPDX-License-Identifier: MIT
"""Reading and writing guest memory by gpa: over slots, and where it is private, without a KVM."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness.errors import InaccessibleMemory, PrivateMemory
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PROT_NONE, map_memory
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.machine import Machine
from kvmharness.machine.slot import Slot

PAGE = 4096
PRIVATE = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
#: gpa and pages of each slot, not in order; the first two touch, the third does not.
SLOTS = [(0x3000, 2), (0x1000, 2), (0x8000, 1)]


class Answer:
    """What every ioctl returns."""

    value = 0


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    made = Answer()
    monkeypatch.setattr(ioctl, "_issue", lambda fd, request, argument: made.value)
    return made


@pytest.fixture
def machine(answer: Answer) -> Iterator[Machine]:
    with Machine(os.dup(0), PAGE, VmType.SNP) as made:
        for number, (gpa, pages) in enumerate(SLOTS):
            mapping = map_memory(pages * PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
            made.own(mapping)
            made.slots.append(Slot(number, gpa, pages * PAGE, 0, "anonymous", mapping))
        yield made


# ------------------------------------------------------------------ several slots


@pytest.mark.parametrize(
    ("gpa", "size"),
    [(0x1000, 4 * PAGE), (0x2FFF, 2), (0x2000, 0x2345), (0x1000, 1), (0x8FFF, 1), (0x1000, 0)],
)
def test_what_is_written_over_slots_is_read_over_slots(
    machine: Machine, gpa: int, size: int
) -> None:
    data = bytes(at * 7 % 251 + 1 for at in range(size))
    machine.write(gpa, data)
    assert machine.read(gpa, size) == data
    everything = machine.read(0x1000, 4 * PAGE) + bytes(0x3000) + machine.read(0x8000, PAGE)
    assert everything[gpa - 0x1000 : gpa - 0x1000 + size] == data
    assert sum(map(bool, everything)) == size  # and nothing else was


def test_each_slot_gets_its_part(machine: Machine) -> None:
    machine.write(0x2FFE, b"abcd")
    assert machine.slots[1].mapping.read(2 * PAGE - 2) == b"ab"
    assert machine.slots[0].mapping.read(0, 2) == b"cd"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_written(machine: Machine, kind: type[bytes]) -> None:
    machine.write(0x2FFE, kind(b"abcd"))
    assert machine.read(0x2FFE, 4) == b"abcd"


def test_a_buffer_of_wider_items_is_written_whole(machine: Machine) -> None:
    machine.write(0x2FFC, memoryview(b"abcdefgh").cast("Q"))
    assert machine.read(0x2FFC, 8) == b"abcdefgh"


@pytest.mark.parametrize(
    ("gpa", "size", "missing"),
    [
        (0x4FFF, 2, 0x5000),
        (0x0FFF, 2, 0x0FFF),
        (0x1000, 0x7001, 0x5000),
        (0x8000, PAGE + 1, 0x9000),
        (0x6000, 0, 0x6000),
    ],
)
def test_where_no_slot_is_nothing_is_read_or_written(
    machine: Machine, gpa: int, size: int, missing: int
) -> None:
    with pytest.raises(ValueError, match=f"no memslot holds {missing:#x}, of {gpa:#x}"):
        machine.read(gpa, size)
    with pytest.raises(ValueError, match=f"no memslot holds {missing:#x}"):
        machine.write(gpa, b"x" * size)
    assert not any(machine.read(0x1000, 4 * PAGE) + machine.read(0x8000, PAGE))


def test_a_fault_says_where_it_is_for_the_guest(machine: Machine) -> None:
    first = machine.slots[0].mapping
    first.protect(PROT_NONE, PAGE, PAGE)
    for action in ("read", "write"):
        argument: int | bytes = 3 * PAGE if action == "read" else b"x" * 3 * PAGE
        with pytest.raises(InaccessibleMemory) as fault:
            getattr(machine, action)(0x2000, argument)
        assert fault.value.gpa == 0x4000
        # Wide stores need not fault at the page's first byte.
        assert first.address + PAGE <= fault.value.address < first.address + 2 * PAGE
        assert fault.value.copied == 2 * PAGE
        assert str(fault.value).startswith(f"{action} at {fault.value.address:#x} (gpa 0x4000): ")
    assert machine.read(0x2000, 2 * PAGE) == b"x" * 2 * PAGE


# ------------------------------------------------------------------ private pages


def test_a_private_page_is_not_given_by_its_shared_half(machine: Machine) -> None:
    machine.write(0x2000, b"shared half")
    machine.set_private(0x2000, PAGE)
    with pytest.raises(PrivateMemory, match="read at gpa 0x2000: the page is private") as refused:
        machine.read(0x2000, 11)
    assert refused.value.gpa == 0x2000
    assert refused.value.address == machine.slots[1].mapping.address + PAGE
    # What the host has there is still to be had, by asking for that.
    assert machine.slots[1].mapping.read(PAGE, 11) == b"shared half"


def test_nothing_is_written_where_a_part_is_private(machine: Machine) -> None:
    machine.set_private(0x3000, PAGE)
    with pytest.raises(PrivateMemory, match="write at gpa 0x3000") as refused:
        machine.write(0x2FF0, b"x" * 32)
    assert isinstance(refused.value, InaccessibleMemory)
    assert machine.read(0x2FF0, 16) == bytes(16)
    machine.write(0x2FF0, b"x" * 16)
    machine.write(0x4000, b"x")


def test_what_becomes_shared_again_is_read(machine: Machine) -> None:
    machine.set_private(0x1000, 4 * PAGE)
    machine.set_shared(0x2000, PAGE)
    machine.write(0x2000, b"x" * PAGE)
    assert machine.read(0x2000, PAGE) == b"x" * PAGE
    for gpa in (0x1FFF, 0x2FFF):
        with pytest.raises(PrivateMemory):
            machine.read(gpa, 2)


@pytest.mark.parametrize("form", ["raising", "returning"])
def test_both_forms_of_the_ioctl_are_remembered(machine: Machine, form: str) -> None:
    calls = machine if form == "raising" else machine.try_
    calls.set_memory_attributes(0x1000, PAGE, PRIVATE)
    with pytest.raises(PrivateMemory):
        machine.read(0x1000, 1)
    calls.set_memory_attributes(0x1000, PAGE, 0)
    assert machine.read(0x1000, 1) == b"\0"


def test_what_the_kernel_refused_did_not_happen(machine: Machine, answer: Answer) -> None:
    answer.value = -errno.EINVAL
    assert not machine.try_.set_memory_attributes(0x1000, PAGE, PRIVATE).ok
    with pytest.raises(KvmError):
        machine.set_private(0x1000, PAGE)
    assert machine.read(0x1000, 1) == b"\0"
    answer.value = 0
    machine.set_private(0x1000, PAGE)
    answer.value = -errno.EINVAL
    machine.try_.set_memory_attributes(0x1000, PAGE, 0)
    with pytest.raises(PrivateMemory):
        machine.read(0x1000, 1)


def test_of_many_ranges_those_that_were_set_are_private(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(fd: int, request: int, structs: Any, size: int, n: int, count: int, done: Any) -> int:
        done[0] = 2
        return -errno.EINVAL

    monkeypatch.setattr(ioctl, "_ioctl_many", two)
    ranges = [(0x1000, PAGE, PRIVATE), (0x8000, PAGE, 0), (0x2000, PAGE, PRIVATE)]
    assert machine.try_.set_memory_attributes_many(ranges).written_back == (2,)
    assert machine.read(0x2000, PAGE) == bytes(PAGE)
    with pytest.raises(PrivateMemory):
        machine.read(0x1000, PAGE)


def test_an_attribute_that_is_not_private_makes_nothing_private(machine: Machine) -> None:
    machine.set_memory_attributes(0x1000, PAGE, 1)
    assert machine.read(0x1000, 1) == b"\0"
