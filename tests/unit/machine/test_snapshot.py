# SPDX-License-Identifier: MIT
"""MSRs by the hundred around those a vCPU refuses, pages that are zero; KVM is a fake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, Mapping, map_memory
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.machine import Machine
from kvmharness.machine.slot import Slot
from kvmharness.machine.snapshot import (
    Snapshot,
    VmState,
    read_all,
    require_same_shape,
    restore_slot,
    save_slot,
    write_all,
)


class FakeMsrs:
    """Reads and writes MSRs until one that is not to be had, as KVM does."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.unreadable: set[int] = set()
        self.read_only: set[int] = set()
        self.calls = 0

    def issue(self, fd: int, request: int, argument: Any) -> int:
        self.calls += 1
        assert argument.nmsrs <= 256
        for done in range(argument.nmsrs):
            entry = argument.entries[done]
            if entry.index in self.unreadable:
                return done
            if request == lib.KVM_GET_MSRS:
                entry.data = self.values.get(entry.index, 0)
            elif entry.index in self.read_only:
                return done
            else:
                self.values[int(entry.index)] = int(entry.data)
        return int(argument.nmsrs)


@pytest.fixture
def msrs(monkeypatch: pytest.MonkeyPatch) -> FakeMsrs:
    fake = FakeMsrs()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def vcpu() -> Iterator[Vcpu]:
    fd = os.memfd_create("vcpu", os.MFD_CLOEXEC)
    os.truncate(fd, 12288)
    with Vcpu(fd, 3, 12288) as made:
        yield made


@pytest.mark.parametrize("unreadable", [set(), {0}, {599}, {0, 1, 255, 256, 257, 599}, {300}])
def test_msrs_are_read_around_those_that_are_not_there(
    msrs: FakeMsrs, vcpu: Vcpu, unreadable: set[int]
) -> None:
    msrs.values = {index: index + 1 for index in range(600)}
    msrs.unreadable = unreadable
    assert read_all(vcpu, list(range(600))) == {
        index: index + 1 for index in range(600) if index not in unreadable
    }
    assert read_all(vcpu, []) == {}


def test_msrs_are_written_around_those_that_have_their_value(msrs: FakeMsrs, vcpu: Vcpu) -> None:
    msrs.values = {0: 5, 299: 7}
    msrs.read_only = {0, 299}
    wanted = {0: 5} | {index: index + 1 for index in range(1, 299)} | {299: 7, 300: 9}
    write_all(vcpu, wanted)
    assert msrs.values == wanted


@pytest.mark.parametrize("index", [0, 1, 299])
def test_an_msr_that_keeps_another_value_is_an_error(
    msrs: FakeMsrs, vcpu: Vcpu, index: int
) -> None:
    msrs.read_only = {index}
    with pytest.raises(HarnessError, match=f"vCPU 3 refuses 0x9 for MSR {index:#x}"):
        write_all(vcpu, dict.fromkeys(range(300), 9))


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    with map_memory(600 * PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as made:
        yield made


def test_pages_of_zeros_are_left_out_and_come_back(mapping: Mapping) -> None:
    slot = Slot(0, 0, mapping.size, 0, "anonymous", mapping)
    last = mapping.size - PAGE_SIZE
    mapping.write(PAGE_SIZE + 5, b"x")
    mapping.write(last, b"y" * PAGE_SIZE)
    saved = save_slot(slot)
    assert set(saved.pages) == {PAGE_SIZE, last}
    mapping.write(2 * PAGE_SIZE, b"later")
    mapping.write(last, b"later")
    restore_slot(slot, saved)
    assert mapping.read() == bytes(PAGE_SIZE + 5) + b"x" + bytes(last - PAGE_SIZE - 6) + (
        b"y" * PAGE_SIZE
    )


def test_another_shape_is_refused(mapping: Mapping, vcpu: Vcpu) -> None:
    slot = Slot(0, 0x1000, mapping.size, 0, "anonymous", mapping)
    empty = Snapshot(VmState(ClockData()), [], [])
    require_same_shape(empty, [], [])
    with pytest.raises(HarnessError, match=r"memslots differ .*: \[\] saved, \[\(0, 4096, 2457600"):
        require_same_shape(empty, [slot], [])
    with pytest.raises(HarnessError, match=r"vCPUs differ: \[\] saved, \[3\] here"):
        require_same_shape(empty, [], [vcpu])


@pytest.mark.parametrize("vm_type", [VmType.SNP, VmType.TDX, VmType.SEV_ES])
def test_a_confidential_vm_has_no_snapshot(vm_type: VmType) -> None:
    with Machine(os.dup(0), 12288, vm_type) as machine:
        with pytest.raises(MissingCapability, match=f"what a {vm_type.label} VM holds is"):
            machine.snapshot()
        with pytest.raises(MissingCapability, match="is its guest's secret"):
            machine.restore(Snapshot(VmState(ClockData()), [], []))
