# SPDX-License-Identifier: MIT
"""The launch as a VMM makes it, and what an emulated host refuses."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.system import Kvm
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.measure.tdx import Mrtd
from kvmharness.standins import tdx as tdx_standin

PAGES = 16

needs_standin = pytest.mark.skipif(
    not tdx_standin.present(), reason="only an emulated TDX host tells what its TDX module did"
)


@pytest.fixture
def machine(vm_builder: Callable[..., VmBuilder]) -> Iterator[Machine]:
    with vm_builder("tdx").guest_memfd(0, PAGES * PAGE_SIZE).vcpus(1).build() as machine:
        machine.set_private(0, PAGES * PAGE_SIZE)
        machine.tdx_vcpu().init_vcpu()
        yield machine


@pytest.mark.scenario("tdx.launch.whole")
@pytest.mark.requires_vm_type("tdx")
def test_a_launch_from_start_to_finish(machine: Machine) -> None:
    mrtd = Mrtd()
    vcpu = machine.tdx_vcpu()
    with SourceBuffer.anonymous(4) as source:
        assert vcpu.populate(0, 4, source=source) == 1
        assert vcpu.populate(8 * PAGE_SIZE, 4, source=source, measure=False) == 1
        for index in range(4):
            mrtd.add_page(index * PAGE_SIZE, source.page(index))
        for index in range(8, 12):
            mrtd.add_page(index * PAGE_SIZE, None)
    machine.tdx.finalize_vm()
    if tdx_standin.present():
        assert tdx_standin.mrtd() == mrtd.hexdigest()
        assert tdx_standin.read_state()["finalized"] == "1"


@pytest.mark.scenario("tdx.launch.populate_many")
@pytest.mark.requires_vm_type("tdx")
def test_many_parts_are_populated_in_one_go(machine: Machine) -> None:
    mrtd = Mrtd()
    vcpu = machine.tdx_vcpu()
    with SourceBuffer.anonymous(4, hole=(3, 1)) as source:
        first = source.address
        assert vcpu.populate_many([(0, 2, first), (8 * PAGE_SIZE, 1, first + 2 * PAGE_SIZE)]) == 2
        for gpa, page in ((0, 0), (PAGE_SIZE, 1), (8 * PAGE_SIZE, 2)):
            mrtd.add_page(gpa, source.page(page))
        result = vcpu.try_.populate_many([(2 * PAGE_SIZE, 1, first), (4 * PAGE_SIZE, 4, first)])
        assert result.errno_name == "EFAULT"
        assert result.written_back == (1, 7 * PAGE_SIZE, first + 3 * PAGE_SIZE, 1)
        for gpa, page in ((2 * PAGE_SIZE, 0), *((n * PAGE_SIZE, n - 4) for n in (4, 5, 6))):
            mrtd.add_page(gpa, source.page(page))
    machine.tdx.finalize_vm()
    if tdx_standin.present():
        assert tdx_standin.mrtd() == mrtd.hexdigest()


@pytest.mark.scenario("tdx.launch.populate_raises")
@pytest.mark.requires_vm_type("tdx")
def test_populate_raises_what_stopped_it(machine: Machine) -> None:
    with SourceBuffer.anonymous(4, hole=(2, 2)) as source:
        with pytest.raises(KvmError, match="KVM_TDX_INIT_MEM_REGION failed: EFAULT") as caught:
            machine.tdx_vcpu().populate(0, 4, source=source)
        assert caught.value.errno == errno.EFAULT
        left = (2 * PAGE_SIZE, source.address + 2 * PAGE_SIZE, 2)
        assert caught.value.result.written_back == left


@pytest.mark.scenario("tdx.launch.capabilities")
@pytest.mark.requires_vm_type("tdx")
def test_capabilities_are_what_init_vm_takes(machine: Machine) -> None:
    capabilities = machine.tdx.capabilities()
    assert capabilities.supported_xfam & 3 == 3  # x87 and SSE, which no TD goes without
    leaves = [(entry.function, entry.index) for entry in capabilities.cpuid]
    assert (0x80000008, 0) in leaves
    assert len(set(leaves)) == len(leaves)
    # Those of TDX that KVM clears: it does not switch their state.
    for entry in capabilities.cpuid:
        if (entry.function, entry.index) == (7, 0):
            assert not entry.ebx & (1 << 4 | 1 << 11)  # HLE, RTM
            assert not entry.ecx & 1 << 5  # WAITPKG


@pytest.mark.scenario("tdx.launch.cpuid")
@pytest.mark.requires_vm_type("tdx")
def test_the_tds_cpuid_has_x2apic_and_its_address_width(machine: Machine) -> None:
    cpuid = machine.tdx_vcpu().get_cpuid()
    entries = {(entry.function, entry.index): entry for entry in cpuid}
    assert entries[1, 0].ecx & 1 << 21
    assert entries[0x80000008, 0].eax >> 16 & 0xFF == 48


@pytest.mark.scenario("tdx.emulated.other_types")
@needs_standin
def test_a_vm_without_td_is_refused_and_the_kernel_survives(kvm: Kvm) -> None:
    result = kvm.try_.create_vm(0)
    assert result.errno == errno.EOPNOTSUPP
    # A type that KVM does not offer is KVM's to refuse.
    assert kvm.try_.create_vm(4).errno == errno.EINVAL


@pytest.mark.scenario("tdx.emulated.leak_is_found")
@needs_standin
def test_a_page_that_stays_with_the_module_is_noticed(machine: Machine) -> None:
    """The check that every TDX test ends with has to be able to fail: plant a leak, and see it."""
    slot = machine.slots[0].guest_memfd
    assert slot is not None
    with SourceBuffer.anonymous(2) as source:
        machine.tdx_vcpu().populate(0, 2, source=source)
        before = tdx_standin.page_counts()
        tdx_standin.plant_leak(1)
        slot.punch_hole(0, 2 * PAGE_SIZE)
        after = tdx_standin.page_counts()
    assert before is not None
    assert after is not None
    # Two pages went, and the module gave one back.
    assert before["reg"] - after["reg"] == 1
    tdx_standin.forget_leaks()
    assert (tdx_standin.page_counts() or {})["reg"] == before["reg"] - 2
