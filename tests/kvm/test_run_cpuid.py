# SPDX-License-Identifier: MIT
"""CPUID as each vCPU's guest reads it: its own APIC id, and no host's topology."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmharness import Kvm, Machine, VmBuilder
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import size_behind
from kvmharness.machine.payload import ExitCase

VCPUS = 3
X2APIC, HYPERVISOR = 1 << 21, 1 << 31


@pytest.fixture
def builder(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").vcpus(VCPUS)
    return builder.payload("exits", "long-cpl0", case=ExitCase.CPUID)


def read(machine: Machine, vcpu: int, leaf: int, subleaf: int = 0) -> list[int]:
    """Have the guest of one vCPU execute CPUID: eax, ebx, ecx, edx."""
    machine.enter("exits", "long-cpl0", vcpu=vcpu, case=ExitCase.CPUID, a0=leaf, a1=subleaf)
    return machine.run(vcpu=vcpu).words


@pytest.mark.scenario("run.cpuid.apic_ids")
def test_each_vcpu_reads_its_own_apic_id(kvm: Kvm, builder: VmBuilder) -> None:
    leaves = {entry.function for entry in kvm.get_supported_cpuid()}
    with builder.build() as machine:
        for vcpu in range(VCPUS):
            assert read(machine, vcpu, 1)[1] >> 24 == vcpu
            for leaf in leaves & {0xB, 0x1F}:
                assert read(machine, vcpu, leaf, 0)[3] == vcpu
                eax, ebx, ecx, edx = read(machine, vcpu, leaf, 1)
                assert (eax & 0x1F, ebx, ecx, edx) == (2, VCPUS, 0x201, vcpu)


@pytest.mark.scenario("run.cpuid.encryption")
def test_memory_encryption_is_not_shown_to_a_plain_vm(builder: VmBuilder) -> None:
    with builder.build() as machine:
        if read(machine, 0, 0x8000_0000)[0] < 0x8000_001F:
            pytest.skip("this host's CPUID ends before leaf 0x8000001F: there is none to hide")
        assert read(machine, 0, 0x8000_001F) == [0, 0, 0, 0]


@pytest.mark.scenario("run.cpuid.features")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
def test_x2apic_is_there_with_kvms_own_apic_alone(builder: VmBuilder) -> None:
    with builder.build() as machine:
        features = read(machine, 0, 1)[2]
        assert features & HYPERVISOR
        assert not features & X2APIC
    with builder.irqchip().build() as machine:
        assert read(machine, 0, 1)[2] & X2APIC


@pytest.mark.scenario("run.cpuid.entries")
def test_kvm_is_given_as_many_entries_as_there_are(
    kvm: Kvm, builder: VmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    call = ioctl.call

    def recorded(fd: int, name: str, argument: Any = None, *more: Any, **named: Any) -> Any:
        if name == "KVM_SET_CPUID2":
            given.append(argument)
        return call(fd, name, argument, *more, **named)

    monkeypatch.setattr(ioctl, "call", recorded)
    builder.build().close()
    supported = kvm.get_supported_cpuid()
    topology = {entry.function for entry in supported} & {0xB, 0x1F}
    others = [entry for entry in supported if entry.function not in topology]
    assert len(given) == VCPUS
    for cpuid in given:
        assert cpuid.nent == len(others) + 3 * len(topology)
        room = size_behind(cpuid) - ffi.sizeof("struct kvm_cpuid2")
        assert room == cpuid.nent * ffi.sizeof("struct kvm_cpuid_entry2")
