# SPDX-License-Identifier: MIT
"""What a VM is told before its vCPUs, what it counts, and its clock."""

from __future__ import annotations

import pytest

from kvmharness import Kvm, Vm
from kvmharness.kvm.caps import Cap
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.ffi import lib

SECOND = 10**9


@pytest.mark.scenario("kvm.vm.clock")
@pytest.mark.requires_cap("KVM_CAP_ADJUST_CLOCK")
def test_the_clock_goes_on_from_where_it_is_set(vm: Vm) -> None:
    vm.set_clock(ClockData(clock=1000 * SECOND))
    now = vm.get_clock().clock
    assert 1000 * SECOND <= now < 1060 * SECOND
    assert vm.get_clock().clock >= now
    assert vm.try_.set_clock(ClockData(flags=1 << 31)).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vm.boot_cpu")
@pytest.mark.requires_cap("KVM_CAP_SET_BOOT_CPU_ID")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
def test_the_boot_cpu_is_the_one_that_runs(vm: Vm) -> None:
    vm.create_irqchip()
    vm.set_boot_cpu_id(1)
    with vm.create_vcpu(0) as first, vm.create_vcpu(1) as second:
        assert first.get_mp_state() == lib.KVM_MP_STATE_UNINITIALIZED
        assert second.get_mp_state() == lib.KVM_MP_STATE_RUNNABLE
        assert vm.try_.set_boot_cpu_id(0).errno_name == "EBUSY"


@pytest.mark.scenario("kvm.vm.identity_map")
@pytest.mark.requires_cap("KVM_CAP_SET_IDENTITY_MAP_ADDR")
def test_the_identity_map_is_placed_before_vcpus(vm: Vm) -> None:
    vm.set_identity_map_addr(0xFEFF_C000)
    vm.set_identity_map_addr(0)
    with vm.create_vcpu(0):
        assert vm.try_.set_identity_map_addr(0xFEFF_C000).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vm.mmu_pages")
def test_shadow_page_tables_take_a_few_pages_at_least(vm: Vm) -> None:
    vm.set_nr_mmu_pages(64)
    assert vm.try_.set_nr_mmu_pages(1).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vm.tsc_khz")
@pytest.mark.requires_cap("KVM_CAP_VM_TSC_CONTROL")
def test_vcpus_get_the_vms_tsc_frequency(vm: Vm) -> None:
    vm.set_tsc_khz(1_000_000)
    assert vm.get_tsc_khz() == 1_000_000
    with vm.create_vcpu(0) as vcpu:
        assert vcpu.get_tsc_khz() == 1_000_000


@pytest.mark.scenario("kvm.vm.pmu_filter")
@pytest.mark.requires_cap("KVM_CAP_PMU_EVENT_FILTER")
def test_the_pmu_filter_takes_300_events(vm: Vm) -> None:
    vm.set_pmu_event_filter([0xC0, 0x3C])
    vm.set_pmu_event_filter([])
    vm.set_pmu_event_filter(range(300), lib.KVM_PMU_EVENT_DENY)
    assert vm.try_.set_pmu_event_filter(range(301)).errno_name == "E2BIG"
    assert vm.try_.set_pmu_event_filter([1], 2).errno_name == "EINVAL"
    assert vm.try_.set_pmu_event_filter([1], flags=1 << 31).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vm.stats")
@pytest.mark.requires_cap("KVM_CAP_BINARY_STATS_FD")
def test_a_vms_statistics(vm: Vm) -> None:
    with vm.get_stats_fd() as stats:
        assert stats.id.startswith("kvm-")
        values = stats.read()
        assert values.keys() == {stat.name for stat in stats.descriptors}
        assert values == vm.stats()


@pytest.mark.scenario("kvm.vm.hyperv_eventfd")
def test_hyperv_connections_need_the_capability(vm: Vm) -> None:
    result = vm.try_.hyperv_eventfd(1, -1)
    wanted = ("EBADF",) if vm.check_extension(Cap.HYPERV_EVENTFD) else ("ENOTTY", "EINVAL")
    assert result.errno_name in wanted


@pytest.mark.scenario("kvm.system.feature_msrs")
@pytest.mark.requires_cap("KVM_CAP_GET_MSR_FEATURES")
def test_feature_msrs_are_those_of_the_list(kvm: Kvm) -> None:
    indices = kvm.get_msr_feature_index_list()
    assert set(kvm.get_msrs(indices)) == set(indices)
    assert kvm.get_msrs([0xFFFF_FFFF]) == {}


@pytest.mark.scenario("kvm.system.capabilities")
def test_capabilities_by_name(kvm: Kvm, vm: Vm) -> None:
    assert kvm.check_extension(Cap.USER_MEMORY) == 1
    assert vm.check_extension(Cap.NR_MEMSLOTS) > 8
