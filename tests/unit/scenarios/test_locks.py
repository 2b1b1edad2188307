# SPDX-License-Identifier: MIT
"""After a scenario each lock of its VM is taken; one that a vCPU keeps is told, with where."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvmharness.errors import KernelFault
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios import locks


class Kernel:
    """Calls that are recorded; those named in `stuck` wait until the test is over."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.stuck: set[str] = set()
        self.errno_name = "EINVAL"
        self.over = threading.Event()

    def __getattr__(self, name: str) -> Any:
        def call(*args: object) -> SimpleNamespace:
            self.called.append(name)
            if name in self.stuck:
                self.over.wait(10)
            return SimpleNamespace(errno_name=self.errno_name)

        return call


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.over.set()


def of(kernel: Kernel, **more: object) -> SimpleNamespace:
    return SimpleNamespace(try_=kernel, closed=False, vm_type=VmType.SNP, **more)


def take(kernel: Kernel) -> None:
    locks.take_each(
        cast(Vm, of(kernel)),
        [cast(Vcpu, of(kernel))],
        [cast(GuestMemfd, of(kernel, size=1 << 16))],
    )


def test_each_lock_is_taken(kernel: Kernel) -> None:
    take(kernel)
    assert kernel.called == [
        *("create_vcpu", "memory_encrypt_op", "get_mp_state", "memory_encrypt_op"),
        *("set_user_memory_region", "set_memory_attributes", "set_memory_attributes"),
        *("set_user_memory_region", "allocate", "punch_hole"),
    ]


def test_a_vm_that_is_dead_is_left_alone(kernel: Kernel) -> None:
    kernel.errno_name = "EIO"
    take(kernel)
    assert kernel.called == ["create_vcpu"]


def test_a_vcpu_that_is_kept_locked_is_the_kernels_fault(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    kernel.stuck.add("get_mp_state")
    with pytest.raises(KernelFault, match=r"a vCPU did not return in 0\.05 s: \w+") as raised:
        take(kernel)
    if os.geteuid() == 0:
        assert "futex" in str(raised.value)
