# SPDX-License-Identifier: MIT
"""A memslot keeps its memory: what the VM holds, when it lets go, and what closing it says."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    Mapping,
    map_memory,
    mappings_in,
)
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType

from .fake_kernel import MMAP_SIZE, FakeKernel, mappable

GPA = 0x4000_0000


def memory(pages: int = 1) -> Mapping:
    return map_memory(pages * PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS)


def gmem(pages: int = 1) -> GuestMemfd:
    return GuestMemfd(os.memfd_create("guest_memfd"), pages * PAGE_SIZE, 0)


@pytest.fixture
def vm(kernel: FakeKernel) -> Iterator[Vm]:
    """A VM with an fd of its own, which can be closed."""
    with Vm(os.dup(0), MMAP_SIZE, VmType.DEFAULT) as thing:
        yield thing


def bind(vm: Vm, mapping: Mapping, slot: int = 0, guest_memfd: GuestMemfd | None = None) -> None:
    if guest_memfd is None:
        vm.set_user_memory_region(slot, GPA, mapping.size, mapping.address)
    else:
        vm.set_user_memory_region2(slot, GPA, mapping.size, mapping.address, 4, guest_memfd)


def delete(vm: Vm, slot: int = 0) -> None:
    vm.set_user_memory_region(slot, 0, 0, 0)


# ------------------------------------------------------------------ holding


def test_a_mapping_that_nobody_else_refers_to_stays(vm: Vm) -> None:
    def local() -> tuple[int, weakref.ref[Mapping]]:
        mapping = memory()
        mapping.write(0, b"the guest's")
        bind(vm, mapping)
        return mapping.address, weakref.ref(mapping)

    address, reference = local()
    gc.collect()
    assert [memory().address for _ in range(3)].count(address) == 0
    kept = reference()
    assert kept is not None
    assert kept.read(0, 11) == b"the guest's"
    del kept
    delete(vm)
    assert reference() is None  # unmapped with the slot, and without the garbage collector
    assert mappings_in(address, PAGE_SIZE) == []


@pytest.mark.parametrize("offset", [0, PAGE_SIZE, 2 * PAGE_SIZE])
def test_any_address_inside_a_mapping_is_its(vm: Vm, offset: int) -> None:
    with memory(3) as mapping:
        vm.set_user_memory_region(0, GPA, PAGE_SIZE, mapping.address + offset)
        with pytest.raises(HarnessError, match="memslot 0"):
            mapping.close()
        delete(vm)
    assert mapping.closed


def test_a_slot_over_two_mappings_holds_both(vm: Vm) -> None:
    with memory(4) as place:
        address = place.address
    halves = [
        map_memory(2 * PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS, address=address + offset)
        for offset in (0, 2 * PAGE_SIZE)
    ]
    if [half.address for half in halves] != [address, address + 2 * PAGE_SIZE]:
        pytest.skip("the kernel put something else there meanwhile")
    vm.set_user_memory_region(0, GPA, 4 * PAGE_SIZE, address)
    for half in halves:
        with pytest.raises(HarnessError, match="memslot 0"):
            half.close()
    vm.close()
    for half in halves:
        half.close()


def test_a_mapping_may_be_given_itself(kernel: FakeKernel, vm: Vm) -> None:
    with memory(2) as mapping:
        vm.set_user_memory_region(1, GPA, PAGE_SIZE, mapping)
        assert kernel.argument["userspace_addr"] == mapping.address
        vm.set_user_memory_region2(2, GPA, PAGE_SIZE, mapping)
        assert kernel.argument["userspace_addr"] == mapping.address
        vm.bind_mapping(3, GPA, mapping)
        with pytest.raises(HarnessError, match=r"memslot 1 .*memslot 2 .*memslot 3 "):
            mapping.close()
        for slot in (1, 2, 3):
            delete(vm, slot)


def test_an_address_of_nobody_is_a_value(kernel: FakeKernel, vm: Vm) -> None:
    for address in (0, 0x10, 2**64 - PAGE_SIZE, 2**64 - 1):
        vm.set_user_memory_region(0, GPA, PAGE_SIZE, address)
        assert kernel.argument["userspace_addr"] == address
    assert vm.memslots.size_of(0) == PAGE_SIZE


def test_a_slot_the_kernel_refused_holds_nothing(kernel: FakeKernel, vm: Vm) -> None:
    kernel.answers["KVM_SET_USER_MEMORY_REGION2"] = -errno.EINVAL
    mapping, guest_memfd = memory(), gmem()
    assert not vm.try_.set_user_memory_region2(0, GPA, PAGE_SIZE, mapping, 4, guest_memfd).ok
    guest_memfd.close()
    mapping.close()
    assert 0 not in vm.memslots


def test_a_refused_change_keeps_what_was_there(kernel: FakeKernel, vm: Vm) -> None:
    old, new = memory(), memory()
    bind(vm, old)
    kernel.answers["KVM_SET_USER_MEMORY_REGION"] = -errno.EINVAL
    assert not vm.try_.set_user_memory_region(0, GPA, PAGE_SIZE, new).ok
    assert not vm.try_.set_user_memory_region(0, 0, 0, 0).ok
    new.close()
    with pytest.raises(HarnessError, match="memslot 0"):
        old.close()
    vm.close()
    old.close()


def test_a_replaced_slot_lets_the_old_memory_go(vm: Vm) -> None:
    old, new = memory(), memory()
    bind(vm, old)
    bind(vm, new)
    old.close()
    with pytest.raises(HarnessError, match="memslot 0"):
        new.close()
    vm.close()
    new.close()


def test_a_call_that_is_interrupted_holds_old_and_new(kernel: FakeKernel, vm: Vm) -> None:
    """Which of them the kernel has is not known: a signal handler raised."""

    def interrupt(_: Any) -> int:
        raise KeyboardInterrupt

    old, new = memory(), memory()
    bind(vm, old)
    kernel.answers["KVM_SET_USER_MEMORY_REGION"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        bind(vm, new)
    for either in (old, new):
        with pytest.raises(HarnessError, match="memslot 0"):
            either.close()
    kernel.answers["KVM_SET_USER_MEMORY_REGION"] = 0
    delete(vm)
    old.close()
    new.close()


# ------------------------------------------------------------------ closing


def test_closing_bound_memory_names_the_slot(vm: Vm) -> None:
    mapping, guest_memfd = memory(), gmem()
    bind(vm, mapping, 5, guest_memfd)
    slot = rf"memslot 5 \(gpa 0x40000000\) of the VM with fd {vm.fileno()}"
    for thing in (mapping, guest_memfd):
        with pytest.raises(HarnessError, match=f"{slot}: delete the slot, or close the VM"):
            thing.close()
        assert not thing.closed
    with pytest.raises(HarnessError, match=slot):
        mapping.unmap(0, PAGE_SIZE)
    mapping.write(0, b"still memory")
    delete(vm, 5)
    mapping.close()
    guest_memfd.close()


def test_letting_go_is_said(vm: Vm) -> None:
    mapping, guest_memfd = memory(2), gmem()
    bind(vm, mapping, 0, guest_memfd)
    mapping.unmap(0, PAGE_SIZE, let_go=True)
    mapping.close(let_go=True)
    guest_memfd.close(let_go=True)
    assert mapping.closed
    assert guest_memfd.closed
    assert vm.memslots.size_of(0) == 2 * PAGE_SIZE  # the slot is there still


def test_a_with_block_leaves_bound_memory_to_the_vm(vm: Vm) -> None:
    """A guest_memfd is made by its VM: its block ends first, with the slot in use."""
    with gmem() as guest_memfd, memory() as mapping:
        bind(vm, mapping, 0, guest_memfd)
        bind(vm, mapping, 1)
    assert not mapping.closed
    assert not guest_memfd.closed
    delete(vm, 0)
    assert guest_memfd.closed
    assert not mapping.closed
    delete(vm, 1)
    assert mapping.closed


def test_a_with_block_left_by_an_error_does_not_hide_it(vm: Vm) -> None:
    with pytest.raises(KeyError), memory() as mapping:  # noqa: PT012
        bind(vm, mapping)
        raise KeyError
    assert not mapping.closed
    vm.close()
    assert mapping.closed


def test_memory_is_held_until_the_vm_and_its_last_vcpu_are_closed(
    kernel: FakeKernel, vm: Vm
) -> None:
    kernel.answers["KVM_CREATE_VCPU"] = lambda _: mappable()
    first, second = vm.create_vcpu(0), vm.create_vcpu(1)
    mapping = memory()
    bind(vm, mapping)
    for thing in (first, vm):
        thing.close()
        thing.close()
        with pytest.raises(HarnessError, match="memslot 0"):
            mapping.close()
    second.close()
    mapping.close()


def test_objects_that_are_dropped_let_go(kernel: FakeKernel) -> None:
    kernel.answers["KVM_CREATE_VCPU"] = lambda _: mappable()
    gc.disable()
    try:
        vm = Vm(os.dup(0), MMAP_SIZE, VmType.DEFAULT)
        vcpu = vm.create_vcpu(0)
        mapping = memory()
        bind(vm, mapping)
        reference = weakref.ref(mapping)
        del mapping
        assert reference() is not None
        with pytest.warns(ResourceWarning):
            del vm
        assert reference() is not None
        del vcpu
        assert reference() is None
    finally:
        gc.enable()


def test_threads_that_set_one_slot_never_lose_its_memory(vm: Vm) -> None:
    """Whichever came last in the kernel: what it has is held, until the VM's end at most."""
    mappings = [memory() for _ in range(4)]
    stop = threading.Barrier(len(mappings))

    def churn(mapping: Mapping) -> None:
        stop.wait(10)
        for turn in range(200):
            if turn % 3:
                bind(vm, mapping)
            else:
                vm.try_.set_user_memory_region(0, 0, 0, 0)
        bind(vm, mapping)

    threads = [threading.Thread(target=churn, args=(mapping,)) for mapping in mappings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert any(mapping._bindings for mapping in mappings)
    vm.close()
    for mapping in mappings:
        mapping.close()


# ------------------------------------------------------------------ which memory is whose


def test_mappings_are_found_by_address() -> None:
    with memory(4) as mapping:
        inside = mapping.address
        assert mappings_in(inside, 1) == [mapping]
        assert mappings_in(inside + 4 * PAGE_SIZE - 1, 1) == [mapping]
        assert mapping not in mappings_in(inside + 4 * PAGE_SIZE, 1)
        assert mapping not in mappings_in(inside - 1, 1)
        assert mapping in mappings_in(inside - 1, 2)
        twin = Mapping(inside, PAGE_SIZE)  # as MAP_FIXED gives one
        assert mappings_in(inside, PAGE_SIZE) == [twin]
        assert mappings_in(inside, 2 * PAGE_SIZE) == [twin, mapping]
        twin._open = False
        del twin
    assert mappings_in(inside, PAGE_SIZE) == []


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize("make", [Vm, Kvm], ids=["vm", "kvm"])
def test_an_unclosed_vm_is_warned_of_and_closed(make: Callable[..., Any]) -> None:
    fd = os.dup(0)
    thing = make(fd, MMAP_SIZE, VmType.DEFAULT) if make is Vm else make(fd)
    if make is Vm:
        with pytest.warns(ResourceWarning, match=rf"unclosed <Vm fd={fd}>"):
            del thing
    else:
        del thing
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_left_open_when_the_interpreter_ends_makes_no_noise() -> None:
    program = """
import os
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, map_memory
from kvmharness.kvm.vm import Vm
mapping = map_memory(4096, flags=MAP_PRIVATE | MAP_ANONYMOUS)
viewed = map_memory(4096, flags=MAP_PRIVATE | MAP_ANONYMOUS)
pointer = viewed.pointer()
vm = Vm(os.dup(0), 4096, 0)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "default", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "ResourceWarning: unclosed <Vm" in done.stderr
    assert "Exception ignored" not in done.stderr
