# SPDX-License-Identifier: MIT
"""KVM_PRE_FAULT_MEMORY (6.11), on guest_memfd slots among others.

Where KVM_CAP_PRE_FAULT_MEMORY is 0 there is no two-dimensional paging, or the VM's memory can't be
mapped yet: the arguments are still checked, then EOPNOTSUPP (kvm_arch_vcpu_pre_fault_memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvmharness import Machine, Vcpu, Vm, VmBuilder
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.source import numbered_pages
from kvmharness.machine.payload import page_checksum

GPA = 0x4000_0000
SLOT_PAGES = 16
OFFERED = pytest.mark.requires_cap("KVM_CAP_PRE_FAULT_MEMORY")


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    with vm.create_vcpu(0) as created:
        yield created


@pytest.fixture(params=["guest_memfd", "anonymous", "memfd"])
def machine(
    request: pytest.FixtureRequest, vm_builder: Callable[..., VmBuilder]
) -> Iterator[Machine]:
    """A machine with SLOT_PAGES pages at GPA, of each kind of memory."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    builder.memory(GPA, SLOT_PAGES * PAGE_SIZE, request.param)
    with builder.payload("hello").build() as built:
        yield built


@pytest.mark.scenario("kvm.prefault.absent")
def test_where_it_is_not_offered_it_is_refused(vm: Vm, vcpu: Vcpu) -> None:
    if vm.check_extension(lib.KVM_CAP_PRE_FAULT_MEMORY):
        pytest.skip("this host offers KVM_PRE_FAULT_MEMORY")
    # With no slot at all a shadow MMU has no pages to work with, and that is ENOSPC.
    vm.set_user_memory_region(0, GPA, PAGE_SIZE, 0)
    result = vcpu.try_.pre_fault_memory(GPA, PAGE_SIZE)
    # EINVAL: a kernel without the ioctl; every unknown one of a vCPU ends so on x86.
    assert result.errno_name in ("EOPNOTSUPP", "EINVAL")
    assert result.written_back == (GPA, PAGE_SIZE)


@pytest.mark.scenario("kvm.prefault.refused")
@pytest.mark.parametrize(
    ("gpa", "size", "flags"),
    [
        (GPA, PAGE_SIZE, 1),
        (GPA, PAGE_SIZE, 1 << 63),
        (GPA + 1, PAGE_SIZE, 0),
        (GPA, PAGE_SIZE + 1, 0),
        (GPA, 0, 0),
        (2**64 - PAGE_SIZE, 2 * PAGE_SIZE, 0),
    ],
)
def test_bad_arguments_are_einval_offered_or_not(
    vcpu: Vcpu, gpa: int, size: int, flags: int
) -> None:
    result = vcpu.try_.pre_fault_memory(gpa, size, flags)
    assert result.errno_name == "EINVAL"
    assert result.written_back == (gpa, size)


@OFFERED
@pytest.mark.scenario("kvm.prefault.whole")
def test_a_whole_slot(machine: Machine) -> None:
    size = SLOT_PAGES * PAGE_SIZE
    machine.write(GPA, numbered_pages(SLOT_PAGES))
    result = machine.vcpus[0].try_.pre_fault_memory(GPA, size)
    assert result.errno_name == "ok"
    assert result.written_back == (GPA + size, 0)
    machine.enter("checksum", start=GPA, pages=SLOT_PAGES)
    contents = numbered_pages(SLOT_PAGES)
    wanted = [
        page_checksum(contents[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])
        for page in range(SLOT_PAGES)
    ]
    assert machine.run().words == wanted


@OFFERED
@pytest.mark.scenario("kvm.prefault.past_slot_end")
def test_past_the_slots_end_stops_there(machine: Machine) -> None:
    """Success for what was mapped; the next call, at the end, is ENOENT: no memslot."""
    vcpu = machine.vcpus[0]
    end = GPA + SLOT_PAGES * PAGE_SIZE
    result = vcpu.try_.pre_fault_memory(end - PAGE_SIZE, 2 * PAGE_SIZE)
    assert result.errno_name == "ok"
    assert result.written_back == (end, PAGE_SIZE)
    again = vcpu.try_.pre_fault_memory(end, PAGE_SIZE)
    assert again.errno_name == "ENOENT"
    assert again.written_back == (end, PAGE_SIZE)


@OFFERED
@pytest.mark.scenario("kvm.prefault.hole")
def test_a_hole_is_mapped_as_zeros(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    builder.guest_memfd(GPA, SLOT_PAGES * PAGE_SIZE)
    with builder.payload("hello").build() as machine:
        machine.write(GPA, numbered_pages(1))
        memfd = machine.slots[1].guest_memfd
        assert memfd is not None
        memfd.punch_hole(0, memfd.size)
        assert machine.vcpus[0].try_.pre_fault_memory(GPA, PAGE_SIZE).errno_name == "ok"
        machine.enter("checksum", start=GPA, pages=1)
        assert machine.run().words == [page_checksum(bytes(PAGE_SIZE))]
