# SPDX-License-Identifier: MIT
"""Calls that are made often, most of them refused, and whole launches leave no kernel memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness.kvm.cpuid import CpuidEntry
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.source import SourceBuffer
from kvmharness.launch.tdx import Tdx
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine

LeftByEach = Callable[[Callable[[], object], int], list[str]]

pytestmark = pytest.mark.requires_vm_type("tdx")


@pytest.mark.scenario("tdx.memory.init_vm_refused")
def test_a_refused_init_vm_leaves_nothing_in_the_kernel(kvm: Kvm, left_by_each: LeftByEach) -> None:
    with kvm.create_vm(VmType.TDX) as vm:
        vm.enable_split_irqchip()
        good = Tdx(vm).capabilities().configure(kvm.get_supported_cpuid(), 48)
        init_vm = Tdx(vm).try_.init_vm
        for refused in ({"reserved": 1}, {"attributes": 1 << 1}):
            assert init_vm(cpuid=good, **refused).errno_name == "EINVAL"  # type: ignore[arg-type]
        unknown = [*good, CpuidEntry(0x40000000)]
        assert left_by_each(lambda: init_vm(cpuid=unknown), 100) == []


@pytest.mark.scenario("tdx.memory.get_cpuid")
def test_get_cpuid_leaves_nothing_in_the_kernel(
    vm_builder: Callable[..., VmBuilder], left_by_each: LeftByEach
) -> None:
    with vm_builder("tdx").guest_memfd(0, PAGE_SIZE).vcpus(1).build() as machine:
        get_cpuid = machine.tdx_vcpu().try_.get_cpuid
        assert get_cpuid(1).errno_name == "E2BIG"
        assert left_by_each(lambda: get_cpuid(1), 100) == []


@pytest.mark.scenario("tdx.memory.launches")
@pytest.mark.parametrize("finalized", [False, True])
def test_a_launch_leaves_nothing_in_the_kernel(
    vm_builder: Callable[..., VmBuilder], left_by_each: LeftByEach, finalized: bool
) -> None:
    def launch() -> None:
        with (
            vm_builder("tdx").guest_memfd(0, 16 * PAGE_SIZE).vcpus(1).build() as machine,
            SourceBuffer.anonymous(4) as source,
        ):
            populate(machine, source)
            if finalized:
                machine.tdx.finalize_vm()

    def populate(machine: Machine, source: SourceBuffer) -> None:
        machine.set_private(0, 16 * PAGE_SIZE)
        machine.tdx_vcpu().init_vcpu()
        machine.tdx_vcpu().populate(0, 4, source=source)

    assert left_by_each(launch, 16) == []
