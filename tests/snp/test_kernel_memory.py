# SPDX-License-Identifier: MIT
"""Calls that are made often, most of them refused, leave nothing in the kernel's memory.

What is lost here is no page that anybody counts: an object of a slab, a page of KVM's own. It shows
when it is lost many times.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.sev import PageType
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.release import running_series
from kvmharness.scenarios.few_fds import no_more_fds
from kvmharness.suite.hooks import SESSION

LeftByEach = Callable[[Callable[[], object], int], list[str]]

pytestmark = pytest.mark.requires_vm_type("snp")

_PAGES = 16
_ABOVE = 1 << 32
#: As the contract has it for gmem.bind.overlap.
_BOUND_TWICE = "EEXIST" if running_series() >= (7, 2) else "EINVAL"


def bind(machine: Machine, slot: int, gpa: int, pages: int, page: int = 0) -> str:
    region = machine.try_.set_user_memory_region2
    memfd, address = machine.slots[0].guest_memfd, machine.slots[0].mapping.address
    size, offset = pages * PAGE_SIZE, page * PAGE_SIZE
    return region(slot, gpa, size, address, lib.KVM_MEM_GUEST_MEMFD, memfd, offset).errno_name


def slot_and_gone(machine: Machine) -> str:
    """A slot of another guest_memfd, which is made for it, and the end of both."""
    address = machine.slots[0].mapping.address
    with machine.create_guest_memfd(3 * PAGE_SIZE) as memfd:
        for size in (3 * PAGE_SIZE, 0):
            machine.set_user_memory_region2(
                1, _ABOVE, size, address, lib.KVM_MEM_GUEST_MEMFD, memfd
            )
    return "ok"


def slot_of_the_host(machine: Machine) -> str:
    address = machine.slots[0].mapping.address
    for flags, gpa, size in (
        (lib.KVM_MEM_LOG_DIRTY_PAGES, _ABOVE, PAGE_SIZE),
        (0, _ABOVE, PAGE_SIZE),
        (0, _ABOVE + PAGE_SIZE, PAGE_SIZE),
        (0, 0, 0),
    ):
        machine.set_user_memory_region(1, gpa, size, address, flags)
    return "ok"


def vcpu_without_fd(machine: Machine) -> str:
    with no_more_fds():
        return machine.try_.create_vcpu(0).errno_name


def guest_memfd_without_fd(machine: Machine) -> str:
    with no_more_fds():
        return machine.try_.create_guest_memfd(PAGE_SIZE).errno_name


def finish_refused(machine: Machine) -> str:
    finish = machine.try_.snp.launch_finish
    return finish(id_block=bytes(96), id_auth=bytes(4096)).errno_name


def convert(machine: Machine) -> str:
    machine.set_private(_ABOVE, 3 * PAGE_SIZE)
    machine.set_shared(_ABOVE, 3 * PAGE_SIZE)
    return "ok"


def update_refused(machine: Machine) -> str:
    with SourceBuffer.anonymous(1) as source:
        update = machine.try_.snp.launch_update
        return update(_ABOVE, PAGE_SIZE, source=source, type=PageType.NORMAL).errno_name


def start_again(machine: Machine) -> str:
    return machine.try_.snp.launch_start().errno_name


ACTIONS: dict[str, tuple[Callable[[Machine], str], str]] = {
    "bind_twice": (lambda machine: bind(machine, 1, _ABOVE, 4), _BOUND_TWICE),
    "bind_past_end": (lambda machine: bind(machine, 1, _ABOVE, 4, _PAGES - 1), "EINVAL"),
    "bind_over_slot": (lambda machine: bind(machine, 1, 0, 4), "EEXIST"),
    "slot_and_gone": (slot_and_gone, "ok"),
    "slot_of_the_host": (slot_of_the_host, "ok"),
    "vcpu_without_fd": (vcpu_without_fd, "EMFILE"),
    "guest_memfd_without_fd": (guest_memfd_without_fd, "EMFILE"),
    "finish_refused": (finish_refused, "EIO"),
    "convert": (convert, "ok"),
    "update_refused": (update_refused, "EINVAL"),
    "start_again": (start_again, "EINVAL"),
}


#: Of those that take long.
_TIMES = {"vcpu_without_fd": 60, "slot_of_the_host": 80, "slot_and_gone": 120}


@pytest.mark.scenario("snp.memory.calls")
@pytest.mark.parametrize("name", ACTIONS)
def test_a_call_leaves_nothing_in_the_kernel(
    machine: Machine, left_by_each: LeftByEach, name: str
) -> None:
    action, expected = ACTIONS[name]
    assert action(machine) == expected
    assert left_by_each(lambda: action(machine), _TIMES.get(name, 200)) == []


@pytest.mark.scenario("snp.memory.launches")
def test_a_launch_leaves_nothing_in_the_kernel(
    vm_builder: Callable[..., VmBuilder], left_by_each: LeftByEach
) -> None:
    def launch() -> None:
        with (
            vm_builder("snp").guest_memfd(0, _PAGES * PAGE_SIZE).vcpus(1).build() as machine,
            SourceBuffer.anonymous(4) as source,
        ):
            machine.set_private(0, _PAGES * PAGE_SIZE)
            machine.snp.launch_start()
            machine.snp.populate(0, 4 * PAGE_SIZE, source=source)
            machine.snp.launch_finish()

    assert left_by_each(launch, 16) == []


@pytest.mark.scenario("snp.memory.allocated")
def test_as_many_pages_are_allocated_as_were_asked_for(
    machine: Machine, request: pytest.FixtureRequest
) -> None:
    held = request.config.stash[SESSION].held
    if held is None:
        pytest.skip("pages of guest_memfds are counted on an emulated host alone")
    memfd = machine.slots[0].guest_memfd
    assert memfd is not None
    before = held.guest_memfd_pages()
    for first, pages, allocated in ((0, 3, 3), (3, 1, 4), (5, 11, 15), (0, 16, 16)):
        memfd.allocate(first * PAGE_SIZE, pages * PAGE_SIZE)
        assert held.guest_memfd_pages() - before == allocated, (first, pages)
    for first, pages, left in ((0, 1, 15), (4, 3, 12), (15, 1, 11), (0, 16, 0)):
        memfd.punch_hole(first * PAGE_SIZE, pages * PAGE_SIZE)
        assert held.guest_memfd_pages() - before == left, (first, pages)
