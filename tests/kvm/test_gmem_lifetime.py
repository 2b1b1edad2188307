# SPDX-License-Identifier: MIT
"""Who keeps what alive: slots, guest_memfds, mappings, vCPUs and VMs, closed in every order.

A guest_memfd's file holds the VM, a mapping holds the file, a slot holds neither: when the last
reference to the file goes, its bindings are cut and the slot stays without memory
(kvm_gmem_release).
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable

import pytest

from kvmharness import Kvm, KvmError, Machine, Vm, VmBuilder
from kvmharness.kvm.exits import MemoryFaultExit, MmioExit
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine.payload import page_checksum, pattern_page

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3)

GMEM = lib.KVM_MEM_GUEST_MEMFD
IN_PLACE = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
GPA = 0x4000_0000
SIZE = 4 * PAGE_SIZE
SLOT = 1


@pytest.fixture
def machine_with(vm_builder: Callable[..., VmBuilder]) -> Callable[..., Machine]:
    """A function giving a machine: code in anonymous memory, four guest_memfd pages at GPA."""

    def build(payload: str = "hello", **arguments: int) -> Machine:
        builder = vm_builder().memory(0, 1 << 20, "anonymous").guest_memfd(GPA, SIZE)
        return builder.payload(payload, None, **arguments).build()

    return build


def checksum(machine: Machine) -> list[int]:
    machine.enter("checksum", start=GPA, pages=SIZE // PAGE_SIZE)
    run = machine.run()
    assert run.status == 0, run.exit
    return run.words


def wait_until_it_ticks(machine: Machine) -> None:
    deadline = time.monotonic() + 5
    while machine.read(GPA, 8) == bytes(8):
        assert time.monotonic() < deadline, "the guest does not count"
        time.sleep(0.001)


# ------------------------------------------------------------------ slots


@pytest.mark.scenario("gmem.lifetime.slot_deleted")
def test_contents_outlive_the_slot(machine_with: Callable[..., Machine]) -> None:
    with machine_with() as machine:
        slot = machine.slots[SLOT]
        machine.write(GPA, b"kept")
        machine.set_user_memory_region2(SLOT, 0, 0, 0)
        assert slot.mapping.read(0, 4) == b"kept"
        machine.enter("checksum", start=GPA, pages=1)
        run = machine.run()
        assert isinstance(run.exit, MmioExit)  # nothing is there for the guest
        assert run.exit.gpa == GPA
        machine.set_user_memory_region2(
            SLOT, GPA, SIZE, slot.mapping.address, GMEM, slot.guest_memfd
        )
        assert checksum(machine)[0] == page_checksum(b"kept".ljust(PAGE_SIZE, b"\0"))


#: KVM_X86_QUIRK_SLOT_ZAP_ALL (6.12): deleting a slot takes all memory's mappings away, or its own.
SLOT_ZAP_ALL = lib.KVM_X86_QUIRK_SLOT_ZAP_ALL


@pytest.mark.scenario("gmem.lifetime.slot_deleted_running")
@pytest.mark.parametrize("quirk", [True, False], ids=["zap-all", "zap-slot"])
def test_deleting_the_slot_under_a_running_guest(
    kvm: Kvm, machine_with: Callable[..., Machine], quirk: bool
) -> None:
    if not quirk and not kvm.check_extension(lib.KVM_CAP_DISABLE_QUIRKS2) & SLOT_ZAP_ALL:
        pytest.skip("this kernel has no KVM_X86_QUIRK_SLOT_ZAP_ALL to disable")
    with machine_with("ticker", counter=GPA) as machine:
        if not quirk:
            machine.enable_cap(lib.KVM_CAP_DISABLE_QUIRKS2, SLOT_ZAP_ALL)
        thread = machine.start(timeout=20)
        wait_until_it_ticks(machine)
        machine.set_user_memory_region2(SLOT, 0, 0, 0)
        run = thread.join()
        assert isinstance(run.exit, MmioExit)
        assert run.exit.gpa == GPA
        last = machine.read(GPA, 8)
        assert machine.read(GPA, 8) == last  # nobody counts any more


@pytest.mark.scenario("gmem.lifetime.slot_replaced_running")
def test_a_running_guest_goes_on_in_a_new_slot(machine_with: Callable[..., Machine]) -> None:
    """The vCPU's read of the deleted slot is an MMIO exit; it is simply run again."""
    with machine_with("ticker", counter=GPA) as machine:
        slot = machine.slots[SLOT]
        for _ in range(5):
            thread = machine.start(timeout=20)
            wait_until_it_ticks(machine)
            machine.set_user_memory_region2(SLOT, 0, 0, 0)
            assert isinstance(thread.join().exit, MmioExit)
            machine.write(GPA, bytes(8))
            machine.set_user_memory_region2(
                SLOT, GPA, SIZE, slot.mapping.address, GMEM, slot.guest_memfd
            )


# ------------------------------------------------------------------ the fd


@pytest.mark.scenario("gmem.lifetime.fd_closed_mapped")
def test_a_mapping_keeps_the_binding(machine_with: Callable[..., Machine]) -> None:
    with machine_with() as machine:
        slot = machine.slots[SLOT]
        assert slot.guest_memfd is not None
        machine.write(GPA, b"mapped")
        slot.guest_memfd.close(let_go=True)
        assert checksum(machine)[0] == page_checksum(b"mapped".ljust(PAGE_SIZE, b"\0"))
        assert slot.mapping.read(0, 6) == b"mapped"


@pytest.mark.scenario("gmem.lifetime.fd_closed_running")
def test_closing_the_fd_alone_does_not_stop_a_running_guest(
    machine_with: Callable[..., Machine],
) -> None:
    with machine_with("ticker", counter=GPA) as machine:
        thread = machine.start(timeout=20)
        wait_until_it_ticks(machine)
        memfd = machine.slots[SLOT].guest_memfd
        assert memfd is not None
        memfd.close(let_go=True)
        machine.write(GPA, bytes(8))
        wait_until_it_ticks(machine)
        assert thread.running
        thread.stop()


@pytest.mark.scenario("gmem.lifetime.duplicate_keeps_it")
def test_a_duplicate_of_the_fd_keeps_the_binding(machine_with: Callable[..., Machine]) -> None:
    with machine_with() as machine:
        slot = machine.slots[SLOT]
        assert slot.guest_memfd is not None
        machine.write(GPA, b"dup")
        copy = os.dup(slot.guest_memfd.fileno())
        try:
            slot.guest_memfd.close(let_go=True)
            slot.mapping.close(let_go=True)
            assert checksum(machine)[0] == page_checksum(b"dup".ljust(PAGE_SIZE, b"\0"))
        finally:
            os.close(copy)


@pytest.mark.scenario("gmem.lifetime.gone")
def test_without_file_and_mapping_the_slot_has_no_memory(
    machine_with: Callable[..., Machine],
) -> None:
    """The guest's access is KVM_EXIT_MEMORY_FAULT with EFAULT; the slot can still be deleted."""
    with machine_with() as machine:
        slot = machine.slots[SLOT]
        assert slot.guest_memfd is not None
        checksum(machine)
        slot.guest_memfd.close(let_go=True)
        slot.mapping.close(let_go=True)
        machine.enter("checksum", start=GPA, pages=1)
        run = machine.run()
        assert isinstance(run.exit, MemoryFaultExit)
        assert run.exit.errno == errno.EFAULT
        assert (run.exit.gpa, run.exit.size) == (GPA, PAGE_SIZE)
        assert not run.exit.wants_private
        # The slot still occupies its gpas, and can be deleted and made anew.
        taken = machine.try_.set_user_memory_region2(9, GPA, PAGE_SIZE, 0)
        assert taken.errno_name == "EEXIST"
        machine.set_user_memory_region2(SLOT, 0, 0, 0)
        with machine.create_guest_memfd(SIZE, IN_PLACE) as fresh, fresh.mmap() as mapping:
            machine.set_user_memory_region2(SLOT, GPA, SIZE, mapping.address, GMEM, fresh)
            assert checksum(machine) == [page_checksum(bytes(PAGE_SIZE))] * 4


@pytest.mark.scenario("gmem.lifetime.gone_running")
def test_taking_the_memory_from_a_running_guest_stops_it(
    machine_with: Callable[..., Machine],
) -> None:
    with machine_with("ticker", counter=GPA) as machine:
        slot = machine.slots[SLOT]
        assert slot.guest_memfd is not None
        thread = machine.start(timeout=20)
        wait_until_it_ticks(machine)
        slot.guest_memfd.close(let_go=True)
        slot.mapping.close(let_go=True)
        run = thread.join()
        assert isinstance(run.exit, MemoryFaultExit)
        assert (run.exit.errno, run.exit.gpa) == (errno.EFAULT, GPA)


# ------------------------------------------------------------------ the VM


@pytest.mark.scenario("gmem.lifetime.vm_closed")
def test_fd_and_mapping_live_on_without_the_vm(
    kvm: Kvm, machine_with: Callable[..., Machine]
) -> None:
    machine = machine_with()
    slot = machine.slots[SLOT]
    assert slot.guest_memfd is not None
    fd = os.dup(slot.guest_memfd.fileno())
    with slot.guest_memfd.mmap() as mapping:
        machine.enter("pattern", start=GPA, pages=4, seed=6)
        assert machine.run().status == 0
        machine.close()
        wanted = b"".join(pattern_page(6, GPA + page * PAGE_SIZE) for page in range(4))
        assert mapping.read() == wanted
        try:
            assert os.fstat(fd).st_size == SIZE
            mapping.write(0, b"alive")
            with kvm.create_vm() as other:
                refused = other.try_.set_user_memory_region2(0, 0, SIZE, 0, GMEM, fd)
                assert refused.errno_name == "EINVAL"
        finally:
            os.close(fd)
        assert mapping.read(0, 5) == b"alive"  # the mapping alone holds it now


@pytest.mark.scenario("gmem.lifetime.vm_fd_closed_vcpu_runs")
def test_a_vcpu_runs_on_when_the_vm_fd_is_closed(machine_with: Callable[..., Machine]) -> None:
    with machine_with() as machine:
        OwnedFd.close(machine)
        run = machine.run()
        assert run.console == "hello from guest_memfd\n"


def _closers(machine: Machine) -> dict[str, Callable[[], None]]:
    slot = machine.slots[SLOT]
    guest_memfd = slot.guest_memfd
    assert guest_memfd is not None
    return {
        "vm": lambda: OwnedFd.close(machine),  # its own fd alone, not what the machine owns
        "vcpu": machine.vcpus[0].close,
        "fd": lambda: guest_memfd.close(let_go=True),
        "mapping": lambda: slot.mapping.close(let_go=True),
    }


ORDERS = list(itertools.permutations(["vm", "vcpu", "fd", "mapping"]))


@pytest.mark.scenario("gmem.lifetime.close_order")
@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
def test_closing_in_every_order(
    machine_with: Callable[..., Machine], order: tuple[str, ...]
) -> None:
    """After the guest ran, and with contents checked for as long as there is a mapping."""
    with machine_with() as machine:
        machine.enter("pattern", start=GPA, pages=4, seed=1)
        assert machine.run().status == 0
        mapping = machine.slots[SLOT].mapping
        closers = _closers(machine)
        for name in order:
            closers[name]()
            if not mapping.closed:
                assert mapping.read(0, PAGE_SIZE) == pattern_page(1, GPA)


# ------------------------------------------------------------------ processes and threads


@pytest.mark.scenario("gmem.lifetime.fork")
def test_a_forked_child_may_use_the_file_but_not_the_vm(
    machine_with: Callable[..., Machine],
) -> None:
    """KVM ioctls belong to the process that made the VM: EIO in any other (kvm_vm_ioctl)."""
    with machine_with() as machine:
        memfd = machine.slots[SLOT].guest_memfd
        assert memfd is not None
        machine.write(GPA, b"parent")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                vm = machine.try_.set_user_memory_region2(7, 0x5000_0000, PAGE_SIZE, 0)
                vcpu = machine.vcpus[0].try_.get_regs()
                punched = memfd.try_.punch_hole(0, PAGE_SIZE)
                if (vm.errno, vcpu.errno, punched.errno) == (errno.EIO, errno.EIO, 0):
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert machine.read(GPA, 6) == bytes(6)  # the child's hole
        assert checksum(machine)[0] == page_checksum(bytes(PAGE_SIZE))


@pytest.mark.scenario("gmem.lifetime.child_outlives_parent_vm")
def test_a_childs_copy_of_the_fd_keeps_contents(vm: Vm) -> None:
    """The inode lives as long as any process has it, whatever became of the VM."""
    with vm.create_guest_memfd(SIZE, IN_PLACE) as memfd:
        with memfd.mmap() as mapping:
            mapping.write(0, b"inherited")
        ask, answer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(answer)
                os.read(ask, 1)  # until the parent has closed everything
                with memfd.mmap() as mapping:
                    status = int(mapping.read(0, 9) != b"inherited")
            finally:
                os._exit(status)
        os.close(ask)
        memfd.close()
        vm.close()
        os.close(answer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.scenario("gmem.lifetime.close_races_delete")
@pytest.mark.destructive
def test_closing_the_file_while_its_slot_is_deleted(vm: Vm) -> None:
    """ae431059e75d (6.18): deleting a slot whose guest_memfd is being closed left a dangling slot.

    On a kernel without the fix this can corrupt the host's memory.
    """
    for _ in range(300):
        memfd = vm.create_guest_memfd(SIZE, IN_PLACE)
        vm.set_user_memory_region2(SLOT, GPA, SIZE, 0, GMEM, memfd)
        barrier = threading.Barrier(2)

        def close(memfd: object = memfd, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            memfd.close(let_go=True)  # type: ignore[attr-defined]

        thread = threading.Thread(target=close)
        thread.start()
        barrier.wait(10)
        vm.set_user_memory_region2(SLOT, 0, 0, 0)
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.scenario("gmem.lifetime.punch_races_bind")
def test_punching_while_slots_come_and_go(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, IN_PLACE) as memfd:
        stop = threading.Event()
        failed: list[str] = []

        def punch() -> None:
            while not stop.is_set():
                for result in (memfd.try_.allocate(0, SIZE), memfd.try_.punch_hole(0, SIZE)):
                    if not result.ok:
                        failed.append(str(result))
                        return

        thread = threading.Thread(target=punch)
        thread.start()
        try:
            for turn in range(300):
                vm.set_user_memory_region2(SLOT, GPA + turn * PAGE_SIZE, SIZE, 0, GMEM, memfd)
                vm.set_user_memory_region2(SLOT, 0, 0, 0)
        finally:
            stop.set()
            thread.join(10)
        assert not thread.is_alive()
        assert not failed


@pytest.mark.scenario("gmem.lifetime.closed_object")
def test_a_closed_object_answers_ebadf(vm: Vm) -> None:
    memfd = vm.create_guest_memfd(SIZE)
    memfd.close()
    memfd.close()  # twice does nothing
    assert memfd.closed
    assert memfd.try_.allocate(0, SIZE).errno_name == "EBADF"
    assert memfd.try_.mmap().errno_name == "EBADF"
    vm.close()
    assert vm.try_.create_guest_memfd(SIZE).errno_name == "EBADF"
    with pytest.raises(KvmError, match="EBADF"):
        vm.create_guest_memfd(SIZE)
