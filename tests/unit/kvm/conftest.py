# SPDX-License-Identifier: MIT
"""Objects of the binding on fds that are no KVM's, before a fake kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmharness.kvm import ioctl
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType

from .fake_kernel import KVM_FD, MMAP_SIZE, VM_FD, FakeKernel, disowned, mappable


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    monkeypatch.setattr(ioctl, "_ioctl_many", fake.issue_many)
    return fake


@pytest.fixture
def kvm(kernel: FakeKernel) -> Iterator[Kvm]:
    thing = Kvm(KVM_FD)
    yield thing
    disowned(thing)


@pytest.fixture
def vm(kernel: FakeKernel) -> Iterator[Vm]:
    thing = Vm(VM_FD, MMAP_SIZE, VmType.DEFAULT)
    yield thing
    disowned(thing)


@pytest.fixture
def vcpu(kernel: FakeKernel) -> Iterator[Vcpu]:
    with Vcpu(mappable(), 3, MMAP_SIZE) as thing:
        yield thing
