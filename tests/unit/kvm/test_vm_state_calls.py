# SPDX-License-Identifier: MIT
"""A VM's controllers, clocks, rings and filters: which ioctl each makes, with what; on a fake."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.errors import HarnessError, KernelFault
from kvmharness.kvm import ioctl
from kvmharness.kvm.caps import Cap, cap_name
from kvmharness.kvm.clock import ClockData, ClockFlag
from kvmharness.kvm.coalesced import RING_ENTRIES, CoalescedWrite
from kvmharness.kvm.dirty import ENTRY_SIZE, DirtyPage, DirtyRing
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.irqchip import (
    HypervRoute,
    Irqchip,
    IrqchipState,
    MsiRoute,
    PinRoute,
    PitState2,
    default_routes,
)
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.stats import Stat, StatsFd, StatType, StatUnit
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm

from .fake_kernel import KVM_FD, VM_FD, FakeKernel, mappable

PAGE = 4096

#: The call, the ioctl it makes, and of the argument what counts (all of it, if it is no struct).
CALLS: dict[str, tuple[Callable[[Vm], object], str, Any]] = {
    "create_pit2": (lambda vm: vm.create_pit2(1), "KVM_CREATE_PIT2", {"flags": 1}),
    "get_pit2": (lambda vm: vm.get_pit2(), "KVM_GET_PIT2", {"flags": 0}),
    "set_pit2": (lambda vm: vm.set_pit2(PitState2(flags=2)), "KVM_SET_PIT2", {"flags": 2}),
    "get_irqchip": (lambda vm: vm.get_irqchip(Irqchip.IOAPIC), "KVM_GET_IRQCHIP", {"chip_id": 2}),
    "set_irqchip": (
        lambda vm: vm.set_irqchip(IrqchipState(chip_id=1)),
        "KVM_SET_IRQCHIP",
        {"chip_id": 1},
    ),
    "reinject": (lambda vm: vm.reinject_control(True), "KVM_REINJECT_CONTROL", {"pit_reinject": 1}),
    "irq_line_status": (
        lambda vm: vm.irq_line_status(5, 1),
        "KVM_IRQ_LINE_STATUS",
        {"irq": 5, "level": 1},
    ),
    "set_boot_cpu_id": (lambda vm: vm.set_boot_cpu_id(3), "KVM_SET_BOOT_CPU_ID", 3),
    "set_nr_mmu_pages": (lambda vm: vm.set_nr_mmu_pages(99), "KVM_SET_NR_MMU_PAGES", 99),
    "get_clock": (lambda vm: vm.get_clock(), "KVM_GET_CLOCK", {"clock": 0}),
    "set_clock": (
        lambda vm: vm.set_clock(ClockData(clock=7, flags=ClockFlag.REALTIME, realtime=9)),
        "KVM_SET_CLOCK",
        {"clock": 7, "flags": 4, "realtime": 9},
    ),
    "get_tsc_khz": (lambda vm: vm.get_tsc_khz(), "KVM_GET_TSC_KHZ", None),
    "set_tsc_khz": (lambda vm: vm.set_tsc_khz(5), "KVM_SET_TSC_KHZ", 5),
    "register mmio": (
        lambda vm: vm.register_coalesced_mmio(0xD000_0000, 0x1000),
        "KVM_REGISTER_COALESCED_MMIO",
        {"addr": 0xD000_0000, "size": 0x1000, "pio": 0},
    ),
    "register pio": (
        lambda vm: vm.register_coalesced_mmio(0x3F8, 8, pio=True),
        "KVM_REGISTER_COALESCED_MMIO",
        {"addr": 0x3F8, "size": 8, "pio": 1},
    ),
    "unregister": (
        lambda vm: vm.unregister_coalesced_mmio(0x3F8, 8, pio=True),
        "KVM_UNREGISTER_COALESCED_MMIO",
        {"addr": 0x3F8, "size": 8, "pio": 1},
    ),
    "enable_dirty_ring": (
        lambda vm: vm.enable_dirty_ring(0x2000),
        "KVM_ENABLE_CAP",
        {"cap": 223, "args": [0x2000, 0, 0, 0]},
    ),
    "reset_dirty_rings": (lambda vm: vm.reset_dirty_rings(), "KVM_RESET_DIRTY_RINGS", None),
    "hyperv_eventfd": (
        lambda vm: vm.hyperv_eventfd(5, -1, deassign=True),
        "KVM_HYPERV_EVENTFD",
        {"conn_id": 5, "fd": -1, "flags": 1},
    ),
    "pmu": (
        lambda vm: vm.set_pmu_event_filter([1, 2**64 - 1], 1, fixed_counter_bitmap=3, flags=1),
        "KVM_SET_PMU_EVENT_FILTER",
        {"action": 1, "nevents": 2, "fixed_counter_bitmap": 3, "flags": 1},
    ),
    "resample": (
        lambda vm: vm.irqfd(7, 4, resample=8),
        "KVM_IRQFD",
        {"fd": 7, "gsi": 4, "flags": 2, "resamplefd": 8},
    ),
    "devid": (
        lambda vm: vm.signal_msi(0xFEE0_0000, 1, devid=5),
        "KVM_SIGNAL_MSI",
        {"devid": 5, "flags": 1, "data": 1},
    ),
    "enable_cap": (
        lambda vm: vm.enable_cap(Cap.X86_DISABLE_EXITS, 2),
        "KVM_ENABLE_CAP",
        {"cap": 143, "flags": 0, "args": [2, 0, 0, 0]},
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_calls(kernel: FakeKernel, vm: Vm, method: str) -> None:
    call, name, wanted = CALLS[method]
    call(vm)
    seen = kernel.argument
    if isinstance(wanted, dict):
        seen = {key: seen[key] for key in wanted}
    assert (kernel.fd, kernel.name, seen) == (VM_FD, name, wanted)
    kernel.answers[name] = -errno.EPERM
    with pytest.raises(KvmError, match=f"{name} failed: EPERM"):
        call(vm)


def test_a_struct_of_another_kind_is_refused(vm: Vm) -> None:
    with pytest.raises(TypeError, match="a PitState2 is required, not ClockData"):
        vm.set_pit2(ClockData())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a ClockData is required, not __CDataOwn"):
        vm.set_clock(ffi.new("struct kvm_clock_data *"))


def test_the_identity_map_address_is_behind_a_pointer(kernel: FakeKernel, vm: Vm) -> None:
    seen = []

    def look(address: Any) -> int:
        seen.append(int(address[0]))
        return 0

    kernel.answers["KVM_SET_IDENTITY_MAP_ADDR"] = look
    vm.set_identity_map_addr(0xFFFB_C000)
    assert seen == [0xFFFB_C000]


def test_what_the_kernel_fills_is_the_value(kernel: FakeKernel, vm: Vm) -> None:
    def clock(data: Any) -> int:
        data.clock = 2**64 - 1
        return 0

    def chip(state: Any) -> int:
        state.chip.ioapic.redirtbl[3].bits = 0x31
        return 0

    def delivered(line: Any) -> int:
        line.status = -1
        return 0

    kernel.answers |= {
        "KVM_GET_CLOCK": clock,
        "KVM_GET_IRQCHIP": chip,
        "KVM_IRQ_LINE_STATUS": delivered,
        "KVM_RESET_DIRTY_RINGS": 5,
    }
    assert vm.get_clock().clock == 2**64 - 1
    assert vm.get_irqchip(2).ioapic.redirtbl[3].vector == 0x31
    assert vm.irq_line_status(1, 1) == -1
    assert vm.reset_dirty_rings() == 5


def test_routes_are_entries(kernel: FakeKernel, vm: Vm) -> None:
    entries: list[dict[str, Any]] = []

    def look(routing: Any) -> int:
        entries.extend(ioctl.decode(routing.entries[i]) for i in range(routing.nr))
        return 0

    kernel.answers["KVM_SET_GSI_ROUTING"] = look
    vm.set_gsi_routing(
        [
            PinRoute(4, Irqchip.IOAPIC, 5),
            MsiRoute(30, 0x12_FEE0_1000, 0x4030),
            MsiRoute(31, 0xFEE0_0000, 1, devid=0),
            HypervRoute(32, 1, 2),
        ],
        flags=3,
    )
    assert kernel.argument["nr"] == 4
    assert kernel.argument["flags"] == 3
    assert [(e["gsi"], e["type"], e["flags"]) for e in entries] == [
        (4, 1, 0),
        (30, 2, 0),
        (31, 2, lib.KVM_MSI_VALID_DEVID),
        (32, 4, 0),
    ]
    assert entries[0]["u"]["irqchip"] == {"irqchip": 2, "pin": 5}
    message = entries[1]["u"]["msi"]
    assert (message["address_lo"], message["address_hi"], message["data"]) == (
        0xFEE0_1000,
        0x12,
        0x4030,
    )
    assert entries[3]["u"]["hv_sint"] == {"vcpu": 1, "sint": 2}
    vm.set_gsi_routing([])
    assert kernel.argument["nr"] == 0
    with pytest.raises(TypeError, match="a route is required, not int"):
        vm.set_gsi_routing([5])  # type: ignore[list-item]


def test_the_default_routes_are_kvms() -> None:
    routes = default_routes()
    assert len(routes) == 16 + 24
    assert PinRoute(9, Irqchip.PIC_SLAVE, 1) in routes
    assert PinRoute(23, Irqchip.IOAPIC, 23) in routes


def test_pmu_events_stand_behind_the_struct(kernel: FakeKernel, vm: Vm) -> None:
    seen: list[int] = []

    def look(filter_: Any) -> int:
        seen.extend(filter_.events[0:2])
        return 0

    kernel.answers["KVM_SET_PMU_EVENT_FILTER"] = look
    vm.set_pmu_event_filter([1, 2**64 - 1])
    assert seen == [1, 2**64 - 1]


# ------------------------------------------------------------------ dirty pages


def test_the_log_is_cleared_by_whole_words(kernel: FakeKernel, vm: Vm) -> None:
    seen: list[bytes] = []

    def look(log: Any) -> int:
        seen.append(bytes(ffi.buffer(log.dirty_bitmap, 16)))
        return 0

    kernel.answers["KVM_CLEAR_DIRTY_LOG"] = look
    vm.clear_dirty_log(3, 64, 65, b"\x05" + bytes(7) + b"\x01")
    assert seen == [b"\x05" + bytes(7) + b"\x01" + bytes(7)]
    assert (kernel.argument["slot"], kernel.argument["first_page"]) == (3, 64)
    assert kernel.argument["num_pages"] == 65
    with pytest.raises(ValueError, match="bitmap: 8 bytes for 65 pages"):
        vm.clear_dirty_log(3, 64, 65, bytes(8))


@pytest.fixture
def ring_fd(monkeypatch: pytest.MonkeyPatch) -> int:
    """Two pages of a ring, in a file of a few pages instead of a vCPU."""
    fd = os.memfd_create("ring", os.MFD_CLOEXEC)
    os.truncate(fd, (lib.KVM_DIRTY_LOG_PAGE_OFFSET + 2) * PAGE)
    return fd


def push(fd: int, index: int, slot: int, offset: int, flags: int = 1) -> None:
    at = lib.KVM_DIRTY_LOG_PAGE_OFFSET * PAGE + index * ENTRY_SIZE
    entry = ffi.new("struct kvm_dirty_gfn *", {"flags": flags, "slot": slot, "offset": offset})
    os.pwrite(fd, bytes(ffi.buffer(entry)), at)


def flags_at(fd: int, index: int) -> int:
    return os.pread(fd, 1, lib.KVM_DIRTY_LOG_PAGE_OFFSET * PAGE + index * ENTRY_SIZE)[0]


class File:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd


def test_the_ring_is_harvested_in_order_and_goes_round(ring_fd: int) -> None:
    with DirtyRing(File(ring_fd), 2 * PAGE) as ring:
        assert ring.entries == 512
        assert ring.harvest() == []
        push(ring_fd, 0, 1, 5)
        push(ring_fd, 1, 0x1_0002, 6)
        push(ring_fd, 3, 9, 9)  # not yet its turn
        assert ring.harvest() == [DirtyPage(1, 5), DirtyPage(0x1_0002, 6)]
        assert (flags_at(ring_fd, 0), flags_at(ring_fd, 1)) == (2, 2)
        assert ring.harvest() == []
        for index in range(2, 512):
            push(ring_fd, index, 0, index)
        push(ring_fd, 0, 7, 7)
        assert len(ring.harvest()) == 511
        assert flags_at(ring_fd, 0) == 2
    with pytest.raises(HarnessError, match="the dirty ring is closed"):
        ring.harvest()
    os.close(ring_fd)


def test_a_full_ring_is_harvested_once(ring_fd: int) -> None:
    for index in range(512):
        push(ring_fd, index, 0, index, flags=3)  # never reset
    with DirtyRing(File(ring_fd), 2 * PAGE) as ring:
        assert len(ring.harvest()) == 512
    os.close(ring_fd)


def test_a_ring_that_is_not_there_is_an_error_and_no_signal(ring_fd: int) -> None:
    with pytest.raises(HarnessError, match="dirty rings have fewer than 12288 bytes"):
        DirtyRing(File(ring_fd), 3 * PAGE)
    for size in (0, -PAGE, 100):
        with pytest.raises(ValueError, match="a ring is whole pages"):
            DirtyRing(File(ring_fd), size)
    os.close(ring_fd)


def test_a_closed_vcpu_has_no_ring(vcpu: Vcpu) -> None:
    vcpu.close()
    with pytest.raises(HarnessError, match="the vCPU is closed"):
        vcpu.dirty_ring(PAGE)


# ------------------------------------------------------------------ coalesced writes


def coalesced_ring(vcpu: Vcpu) -> Any:
    page = ffi.cast("char *", vcpu.kvm_run.pointer) + lib.KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE
    return ffi.cast("struct kvm_coalesced_mmio_ring *", page)


def collect(ring: Any, address: int, data: bytes, pio: int = 0) -> None:
    entry = ffi.cast("struct kvm_coalesced_mmio *", ffi.cast("char *", ring) + 8)[ring.last]
    entry.phys_addr, entry.len, entry.pio = address, len(data), pio
    ffi.memmove(entry.data, data, len(data))
    ring.last = (ring.last + 1) % RING_ENTRIES


def test_coalesced_writes_are_taken_in_order_around_the_end(vcpu: Vcpu) -> None:
    assert RING_ENTRIES == 170  # KVM_COALESCED_MMIO_MAX of 4 KiB
    ring = coalesced_ring(vcpu)
    ring.first = ring.last = RING_ENTRIES - 1
    collect(ring, 0xD000_0000, b"abcd")
    collect(ring, 0x3F8, b"x", pio=1)
    assert vcpu.coalesced_writes() == [
        CoalescedWrite(0xD000_0000, b"abcd", False),
        CoalescedWrite(0x3F8, b"x", True),
    ]
    assert ring.first == ring.last == 1
    assert vcpu.coalesced_writes() == []


def test_a_ring_with_a_place_outside_is_not_followed(vcpu: Vcpu) -> None:
    ring = coalesced_ring(vcpu)
    ring.first = 2**32 - 1
    assert vcpu.coalesced_writes() == []
    ring.first, ring.last = 0, 2**32 - 1
    assert vcpu.coalesced_writes() == []


def test_a_mapping_without_the_ring_is_an_error() -> None:
    with Vcpu(mappable(), 0, 2 * PAGE) as vcpu, pytest.raises(KernelFault, match="no ring in"):
        vcpu.coalesced_writes()


def test_a_closed_vcpu_has_no_writes(vcpu: Vcpu) -> None:
    vcpu.close()
    with pytest.raises(HarnessError, match="is closed"):
        vcpu.coalesced_writes()


# ------------------------------------------------------------------ statistics


def statistics(tmp: str) -> int:
    """Make a file as KVM_GET_STATS_FD gives it: three statistics, names of 16 bytes."""
    fd = os.memfd_create(tmp, os.MFD_CLOEXEC)
    name_size, id_at, descriptors_at = 16, 24, 40
    described = [
        (lib.KVM_STATS_TYPE_INSTANT | lib.KVM_STATS_UNIT_BOOLEAN, 0, 1, 0, 0, b"blocking"),
        (
            lib.KVM_STATS_TYPE_LOG_HIST | lib.KVM_STATS_UNIT_SECONDS | lib.KVM_STATS_BASE_POW10,
            -9,
            3,
            8,
            0,
            b"wait_hist",
        ),
        (0xF | 0xF0 | lib.KVM_STATS_BASE_POW2, 10, 1, 32, 5, b"sixteen_letters_"[:16]),
    ]
    size = int(ffi.sizeof("struct kvm_stats_desc")) + name_size
    data_at = descriptors_at + len(described) * size
    header = ffi.new(
        "struct kvm_stats_header *", [0, name_size, len(described), id_at, descriptors_at, data_at]
    )
    os.pwrite(fd, bytes(ffi.buffer(header)), 0)
    os.pwrite(fd, b"kvm-1/vcpu-0", id_at)
    for index, (flags, exponent, count, offset, bucket, name) in enumerate(described):
        one = ffi.new("struct kvm_stats_desc *", [flags, exponent, count, offset, bucket])
        fixed = bytes(ffi.buffer(one))
        os.pwrite(fd, fixed + name.ljust(name_size, b"\0"), descriptors_at + index * size)
    values = [1, 10, 20, 2**64 - 1, 7]
    os.pwrite(fd, b"".join(value.to_bytes(8, "little") for value in values), data_at)
    return fd


def test_statistics_are_a_dictionary(kernel: FakeKernel, vm: Vm, vcpu: Vcpu) -> None:
    wanted = {"blocking": 1, "wait_hist": (10, 20, 2**64 - 1), "sixteen_letters_": 7}
    for thing in (vm, vcpu):
        kernel.answers["KVM_GET_STATS_FD"] = fd = statistics("stats")
        assert thing.stats() == wanted
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert kernel.name == "KVM_GET_STATS_FD"
    kernel.answers["KVM_GET_STATS_FD"] = -errno.ENOTTY
    assert vm.try_.get_stats_fd().value is None


def test_statistics_say_what_they_are() -> None:
    with StatsFd(statistics("stats")) as stats:
        assert stats.id == "kvm-1/vcpu-0"
        assert stats.descriptors == [
            Stat("blocking", StatType.INSTANT, StatUnit.BOOLEAN, 10, 0, 1, 0, 0),
            Stat("wait_hist", StatType.LOG_HIST, StatUnit.SECONDS, 10, -9, 3, 0, 8),
            Stat("sixteen_letters_", 15, 15, 2, 10, 1, 5, 32),
        ]


def test_statistics_that_are_cut_off_are_an_error() -> None:
    fd = statistics("stats")
    os.truncate(fd, os.fstat(fd).st_size - 1)
    with StatsFd(fd) as stats, pytest.raises(KernelFault, match="bytes of statistics"):
        stats.read()


# ------------------------------------------------------------------ capabilities, /dev/kvm


def test_the_capabilities_are_all_of_the_bindings() -> None:
    declared = {
        name.removeprefix("KVM_CAP_"): getattr(lib, name)
        for name in dir(lib)
        if name.startswith("KVM_CAP_")
    }
    assert {name: int(cap) for name, cap in Cap.__members__.items()} == declared
    assert (cap_name(234), cap_name(9999)) == ("GUEST_MEMFD", "9999")


def test_a_capability_is_shown_by_name(kernel: FakeKernel, kvm: Kvm, vm: Vm) -> None:
    with ioctl.recording() as entries:
        kvm.check_extension(Cap.GUEST_MEMFD)
        vm.check_extension(234)
        vm.enable_cap(Cap.SPLIT_IRQCHIP, 24)
    assert [entry["ioctl"] for entry in entries] == [
        "KVM_CHECK_EXTENSION GUEST_MEMFD",
        "KVM_CHECK_EXTENSION GUEST_MEMFD",
        "KVM_ENABLE_CAP SPLIT_IRQCHIP",
    ]
    assert kernel.argument["cap"] == 121


def test_feature_msrs_are_read_on_dev_kvm(kernel: FakeKernel, kvm: Kvm) -> None:
    def fill(msrs: Any) -> int:
        assert [msrs.entries[i].index for i in range(msrs.nmsrs)] == [0x10A, 0x8B]
        msrs.entries[0].data = 2**63
        return 1

    kernel.answers["KVM_GET_MSRS"] = fill
    assert kvm.get_msrs([0x10A, 0x8B]) == {0x10A: 2**63}
    assert kernel.fd == KVM_FD
    kernel.answers["KVM_GET_MSRS"] = -errno.EFAULT
    assert kvm.try_.get_msrs([1]).value is None


def test_machine_check_banks(kernel: FakeKernel, kvm: Kvm) -> None:
    def fill(value: Any) -> int:
        value[0] = 0x100_0020
        return 0

    kernel.answers["KVM_X86_GET_MCE_CAP_SUPPORTED"] = fill
    assert kvm.get_mce_cap_supported() == 0x100_0020
    cpuid = kvm.get_supported_hv_cpuid()
    assert (kernel.name, cpuid.nent) == ("KVM_GET_SUPPORTED_HV_CPUID", 256)
