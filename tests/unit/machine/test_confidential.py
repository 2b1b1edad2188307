# SPDX-License-Identifier: MIT
"""A confidential guest runs on the hardware alone: an emulated host says so at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness import host_kinds, labels
from kvmharness.errors import MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.machine import Machine

from ..kvm.fake_kernel import MMAP_SIZE, mappable


@pytest.fixture(params=[VmType.SNP, VmType.TDX, VmType.DEFAULT], ids=lambda kind: kind.label)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(os.dup(0), 4096, request.param) as made:
        yield made


def test_running_one_on_an_emulated_host(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(labels.HOST_VARIABLE, "emulated-snp")
    for run in (machine.run, machine.start):
        if machine.vm_type == VmType.DEFAULT:
            with pytest.raises(IndexError):  # it came to its vCPU, of which there is none
                run()
            continue
        with pytest.raises(MissingCapability, match="no confidential guest can run on it") as why:
            run()
        assert "this is an emulated-snp host" in str(why.value)


def test_elsewhere_it_is_for_the_kernel_to_say(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "current", lambda: labels.HostLabel(host_kinds.NATIVE, "7.3"))
    with pytest.raises(IndexError):
        machine.run()


@pytest.mark.parametrize("vm_type", [VmType.SEV, VmType.SEV_ES, VmType.SNP, VmType.TDX])
def test_its_vcpu_says_so_itself(vm_type: VmType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it without the machine: KVM_RUN would come back at the deadline, if at all."""

    def issue(fd: int, request: int, argument: Any) -> int:
        return mappable() if request == lib.KVM_CREATE_VCPU else 0

    monkeypatch.setattr(ioctl, "_issue", issue)
    monkeypatch.setattr(ioctl, "run", lambda *_: pytest.fail("KVM_RUN was issued"))
    label = labels.HostLabel("emulated-snp", "7.3")
    monkeypatch.setattr(labels, "current", lambda: label)
    with Vm(os.dup(0), MMAP_SIZE, vm_type) as vm, vm.create_vcpu(0) as vcpu:
        for run in (vcpu.run, vcpu.run_until):
            with pytest.raises(MissingCapability, match=f"running a {vm_type.label} guest: "):
                run(5)
    label = labels.HostLabel(host_kinds.NATIVE, "7.3")
    with Vm(os.dup(0), MMAP_SIZE, vm_type) as vm, vm.create_vcpu(0) as vcpu:
        assert type(vcpu) is Vcpu
    label = labels.HostLabel("emulated-snp", "7.3")
    with Vm(os.dup(0), MMAP_SIZE, VmType.DEFAULT) as vm, vm.create_vcpu(0) as vcpu:
        assert type(vcpu) is Vcpu
