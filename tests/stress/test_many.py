# SPDX-License-Identifier: MIT
"""The same thing very often: nothing may be left behind, and nothing may get slower or stuck."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kvmharness import InaccessibleMemory, Kvm, Machine, VmBuilder
from kvmharness.kvm.exits import InterruptedExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PAGE_SIZE, map_memory
from kvmharness.machine.slot import require_guest_memfd

pytestmark = [
    pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3),
    pytest.mark.deadline(600),
]

IN_PLACE = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
VMS = 2000


class Held:
    """What this process holds that a leak would add to."""

    def __init__(self) -> None:
        self.fds = len(os.listdir("/proc/self/fd"))
        self.threads = psutil.Process().num_threads()
        self.mappings = Path("/proc/self/maps").read_text().count("\n")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = Held()
    yield
    after = Held()
    # A joined thread is gone from the kernel's list a moment later.
    deadline = time.monotonic() + 5
    while after.threads > before.threads and time.monotonic() < deadline:
        time.sleep(0.01)
        after = Held()
    assert after.fds == before.fds
    assert after.threads == before.threads
    # The allocator keeps some: far fewer than one for each thing made.
    assert after.mappings - before.mappings < 50


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("run.stress.vms")
def test_two_thousand_vms(vm_builder: Callable[..., VmBuilder]) -> None:
    """Made, filled in place, run and closed."""
    builder = vm_builder().guest_memfd(0, 1 << 20).payload("hello")
    for _ in range(VMS):
        with builder.build() as machine:
            run = machine.run()
            assert (run.status, run.console) == (0, "hello from guest_memfd\n")


MEASURED = """
from kvmharness import Kvm, VmBuilder
import psutil
builder = VmBuilder(Kvm.open()).guest_memfd(0, 1 << 20).payload("hello")
def many():
    for _ in range(300):
        with builder.build() as machine:
            machine.run()
    return psutil.Process().memory_info().rss
first = many()
print(many() - first)
"""


@pytest.mark.scenario("run.stress.memory")
@pytest.mark.usefixtures("vm")  # the child needs what makes one
def test_vms_leave_no_memory_behind() -> None:
    """In a process of its own: the one that runs tests keeps a record of every ioctl."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 2 << 20


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("run.stress.vms_on_threads")
def test_vms_that_run_on_threads(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().guest_memfd(0, 1 << 20).vcpus(2).payload("hello")
    for _ in range(200):
        with builder.build() as machine:
            assert [run.status for run in machine.run_all()] == [0, 0]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("run.stress.forgotten")
def test_vms_that_are_never_closed_close_themselves(vm_builder: Callable[..., VmBuilder]) -> None:
    """Losing the last reference is enough, for the fds and for the memory."""
    builder = vm_builder().guest_memfd(0, 1 << 20).payload("hello")
    for _ in range(200):
        assert builder.build().run().status == 0


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("gmem.stress.create")
def test_ten_thousand_guest_memfds(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        for turn in range(10_000):
            with vm.create_guest_memfd(PAGE_SIZE, IN_PLACE) as memfd:
                if turn % 10 == 0:
                    with memfd.mmap() as mapping:
                        mapping.fill(0, PAGE_SIZE, 1)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("gmem.stress.bind")
def test_slots_bound_and_deleted(kvm: Kvm) -> None:
    with kvm.create_vm() as vm, vm.create_guest_memfd(64 * PAGE_SIZE, IN_PLACE) as memfd:
        for turn in range(5000):
            slot, offset = turn % 7, turn % 60 * PAGE_SIZE
            vm.set_user_memory_region2(
                slot, turn << 20, 4 * PAGE_SIZE, 0, lib.KVM_MEM_GUEST_MEMFD, memfd, offset
            )
            vm.set_user_memory_region2(slot, 0, 0, 0)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("gmem.stress.faults")
def test_a_hundred_thousand_refused_touches(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        require_guest_memfd(vm, lib.GUEST_MEMFD_FLAG_MMAP)
        with (
            vm.create_guest_memfd(PAGE_SIZE, lib.GUEST_MEMFD_FLAG_MMAP) as memfd,
            memfd.mmap() as mapping,
        ):
            for _ in range(100_000):
                try:
                    mapping.read(0, 1)
                except InaccessibleMemory:
                    continue
                pytest.fail("a private page could be read")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("run.stress.kicks")
def test_kicks_at_every_moment(vm_builder: Callable[..., VmBuilder]) -> None:
    """Two vCPUs of one VM, kicked from here while they start, run and stop."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").vcpus(2).payload("spin")
    with builder.build() as machine:
        for turn in range(1000):
            threads = [machine.start(vcpu, timeout=60) for vcpu in range(2)]
            if turn % 4:
                time.sleep(turn % 13 * 5e-5)
            for thread in threads:
                assert isinstance(thread.stop().exit, InterruptedExit)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("gmem.stress.punch_under_two_vcpus")
def test_punching_under_two_running_vcpus(vm_builder: Callable[..., VmBuilder]) -> None:
    """Allocate, write and punch from two host threads while two vCPUs write the same pages."""
    data = 0x8_0000
    builder = vm_builder().guest_memfd(0, 1 << 20)
    builder.payload("ticker", vcpu=0, counter=data)
    builder.payload("ticker", vcpu=1, counter=data + 8)

    def disturb(machine: Machine, stop: threading.Event, failed: list[BaseException]) -> None:
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        try:
            while not stop.is_set():
                machine.write(data + 64, b"host")
                memfd.punch_hole(data, PAGE_SIZE)
                memfd.allocate(data, PAGE_SIZE)
        except BaseException as error:  # noqa: BLE001 (reported below)
            failed.append(error)

    with builder.build() as machine:
        stop = threading.Event()
        failed: list[BaseException] = []
        vcpus = [machine.start(vcpu, timeout=60) for vcpu in range(2)]
        hosts = [threading.Thread(target=disturb, args=(machine, stop, failed)) for _ in range(2)]
        for host in hosts:
            host.start()
        time.sleep(3)
        stop.set()
        for host in hosts:
            host.join(30)
        assert not any(host.is_alive() for host in hosts)
        assert not failed
        for vcpu in vcpus:
            assert vcpu.running
            assert isinstance(vcpu.stop().exit, InterruptedExit)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.scenario("kvm.stress.memslots")
def test_as_many_slots_as_there_can_be(kvm: Kvm) -> None:
    """set_memory_region_test.c's test_add_max_memory_regions, a page each."""
    count = kvm.check_extension(lib.KVM_CAP_NR_MEMSLOTS)
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    with kvm.create_vm() as vm, map_memory(count * PAGE_SIZE, flags=flags) as mapping:
        for slot in range(count):
            at = slot * PAGE_SIZE
            vm.set_user_memory_region(slot, at, PAGE_SIZE, mapping.address + at)
        more = vm.try_.set_user_memory_region(count, count * PAGE_SIZE, PAGE_SIZE, mapping.address)
        assert more.errno_name == "EINVAL"
