# SPDX-License-Identifier: MIT
"""Fixtures of the suite. ``kvm``, ``vm`` and ``vm_builder`` come from kvmharness's pytest plugin.

Tests that ask for ``vm_type`` run once for each type this host offers, those that ask for
``typed_vm`` for each that can have a guest_memfd; what is not offered is skipped once, by name, in
test_gmem_create.py, and not again by every test.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from kvmharness import GuestMemfd, Kvm, KvmError, MissingCapability, Vm, VmBuilder, VmType
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine.slot import require_guest_memfd

#: The combinations of GUEST_MEMFD_FLAG_* that mean something, by the name tests show.
FLAG_COMBINATIONS = {
    "private": 0,
    "mmap": lib.GUEST_MEMFD_FLAG_MMAP,
    "mmap+shared": lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED,
}


@functools.cache
def offered_vm_types(*, with_guest_memfd: bool) -> list[VmType]:
    """Return the VM types of this host.

    The default one alone where there is none, or no KVM to ask: tests then skip with the reason.
    """
    offered: list[VmType] = []
    with contextlib.suppress(MissingCapability), Kvm.open() as kvm:
        for vm_type in sorted(kvm.vm_types()):
            # A type that can be listed and not made: its tests would say so, each of them.
            with contextlib.suppress(MissingCapability, KvmError), kvm.create_vm(vm_type) as vm:
                if not with_guest_memfd or vm.check_extension(lib.KVM_CAP_GUEST_MEMFD):
                    offered.append(vm_type)
    return offered or [VmType.DEFAULT]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vm_type" in metafunc.fixturenames:
        types = offered_vm_types(with_guest_memfd="typed_vm" in metafunc.fixturenames)
        metafunc.parametrize(
            "vm_type",
            [
                pytest.param(offered, marks=pytest.mark.requires_vm_type(offered.label))
                for offered in types
            ],
            ids=lambda offered: offered.label,
        )


@pytest.fixture
def typed_vm(kvm: Kvm, vm_type: VmType) -> Iterator[Vm]:
    """A VM of each type the host offers, able to have a guest_memfd, with nothing in it."""
    with kvm.create_vm(vm_type) as vm:
        require_guest_memfd(vm, 0)
        yield vm


@pytest.fixture(params=list(FLAG_COMBINATIONS.values()), ids=list(FLAG_COMBINATIONS))
def memfd_flags(request: pytest.FixtureRequest, typed_vm: Vm) -> int:
    """Each combination of guest_memfd flags the VM knows."""
    flags: int = request.param
    require_guest_memfd(typed_vm, flags)
    return flags


@pytest.fixture
def memfd(typed_vm: Vm, memfd_flags: int) -> Iterator[GuestMemfd]:
    """A guest_memfd of four pages, in each VM type and flag combination."""
    with typed_vm.create_guest_memfd(4 * PAGE_SIZE, memfd_flags) as created:
        yield created


@pytest.fixture
def plain_vm(vm: Vm) -> Vm:
    """A default VM that can have a guest_memfd."""
    require_guest_memfd(vm, 0)
    return vm


@pytest.fixture
def make_shared(vm: Vm) -> Iterator[Callable[[int], GuestMemfd]]:
    """A function that makes guest_memfds the host can fill in place, `size` bytes each."""
    require_guest_memfd(vm, FLAG_COMBINATIONS["mmap+shared"])
    made: list[GuestMemfd] = []

    def make(size: int = 4 * PAGE_SIZE) -> GuestMemfd:
        made.append(vm.create_guest_memfd(size, FLAG_COMBINATIONS["mmap+shared"]))
        return made[-1]

    yield make
    for guest_memfd in made:
        guest_memfd.close()


@pytest.fixture
def shared(make_shared: Callable[[int], GuestMemfd]) -> GuestMemfd:
    """A guest_memfd of four pages that the host can fill in place."""
    return make_shared(4 * PAGE_SIZE)


@pytest.fixture
def in_place(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    """A builder of a default VM with 2 MiB of in-place guest_memfd at gpa 0."""
    return vm_builder().guest_memfd(0, 2 << 20)
