# SPDX-License-Identifier: MIT
"""Wrong values reach the kernel, wrong sizes and types don't: none of these may touch memory."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm import ioctl
from kvmharness.kvm import vm as vm_module
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry
from kvmharness.kvm.device import Device
from kvmharness.kvm.exit_reader import read_exit
from kvmharness.kvm.exits import Exit, HltExit, IoExit, MmioExit
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PAGE_SIZE,
    guarded_read,
    guarded_write,
    map_memory,
    try_mmap,
)
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.registers import Regs
from kvmharness.kvm.run_page import KvmRun
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.launch.sev import Snp
from kvmharness.launch.tdx import Tdx, TdxInitMemRegion, TdxVcpu

from .fake_kernel import FakeKernel

GIB = 1 << 30


# ------------------------------------------------------------------ out-buffers


def test_the_dirty_log_has_room_for_the_whole_slot(kernel: FakeKernel, vm: Vm) -> None:
    """KVM writes a bit for each page of the slot, whatever the caller believes of its size."""
    whole = bytes(range(256)) * 128

    def fill(log: Any) -> int:
        ffi.memmove(log.dirty_bitmap, whole, len(whole))
        return 0

    kernel.answers["KVM_GET_DIRTY_LOG"] = fill
    vm.set_user_memory_region(0, 0, GIB, 0)
    assert vm.get_dirty_log(0, 1) == whole
    assert vm.get_dirty_log(0) == whole
    assert len(vm.get_dirty_log(0, 2 * GIB // PAGE_SIZE)) == 2 * len(whole)


def test_a_dirty_log_longer_than_its_buffer_faults_in_the_kernels_copy(
    kernel: FakeKernel, vm: Vm
) -> None:
    """A slot that was set without the object: 64 pages are asked for, KVM has bits for 128."""
    outcomes = []

    def fill(log: Any) -> int:
        for offset in (0, 8):
            try:
                guarded_write(int(ffi.cast("uintptr_t", log.dirty_bitmap)) + offset, b"\xff" * 8)
                outcomes.append("ok")
            except HarnessError:
                outcomes.append("fault")
                return -errno.EFAULT
        return 0

    kernel.answers["KVM_GET_DIRTY_LOG"] = fill
    assert vm.try_.get_dirty_log(7, 64).errno_name == "EFAULT"
    assert outcomes == ["ok", "fault"]


def test_the_dirty_log_of_a_slot_nobody_knows_takes_a_size(kernel: FakeKernel, vm: Vm) -> None:
    kernel.answers["KVM_GET_DIRTY_LOG"] = lambda _: pytest.fail("the kernel was asked")
    with pytest.raises(HarnessError, match="memslot 3 was not set through this object"):
        vm.get_dirty_log(3)


def test_a_dirty_log_does_not_show_the_one_before(kernel: FakeKernel, vm: Vm) -> None:
    bits = [b"\xff" * 8, b""]

    def fill(log: Any) -> int:
        ffi.memmove(log.dirty_bitmap, bits[0], len(bits.pop(0)))
        return 0

    kernel.answers["KVM_GET_DIRTY_LOG"] = fill
    assert vm.get_dirty_log(1, 64) == b"\xff" * 8
    assert vm.get_dirty_log(1, 64) == bytes(8)


def test_more_msr_indices_than_there_is_room_for(kernel: FakeKernel, kvm: Kvm) -> None:
    def too_many(msrs: Any) -> int:
        msrs.nmsrs = 10_000_000
        return -errno.E2BIG

    kernel.answers["KVM_GET_MSR_INDEX_LIST"] = too_many
    assert kvm.try_.get_msr_index_list().errno_name == "E2BIG"


def test_an_attribute_longer_than_its_value_faults_in_the_kernels_copy(
    kernel: FakeKernel, vm: Vm
) -> None:
    def fill(attribute: Any) -> int:
        try:
            guarded_write(int(attribute.addr), b"\xff" * 16)
        except HarnessError:
            return -errno.EFAULT
        return 0

    kernel.answers["KVM_GET_DEVICE_ATTR"] = fill
    kernel.answers["KVM_SET_DEVICE_ATTR"] = lambda attribute: len(
        guarded_read(int(attribute.addr), 8)
    )
    with Device(os.dup(0)) as device:
        assert device.try_.get_attr(0, 0, 8).errno_name == "EFAULT"
        assert device.try_.get_attr(0, 0, 16).value == b"\xff" * 16
        assert device.try_.set_attr(0, 0, bytes(8)).ok
        assert device.try_.set_attr(0, 0, Regs()).ok
        wrong: Any
        for wrong in (None, 5, "text", ffi.NULL, ffi.cast("void *", 0x1000)):
            with pytest.raises(TypeError, match=r"^value: bytes are required, not "):
                device.set_attr(0, 0, wrong)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (64, 8), (65, 16), (0x600 * 8, 0x600)])
def test_an_msr_filters_bitmap_is_whole_words(
    kernel: FakeKernel, vm: Vm, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    """KVM copies BITS_TO_LONGS(nmsrs) words (kvm_add_msr_filter)."""
    made = []

    class Recording:
        def new(self, kind: str, length: int) -> Any:
            made.append((kind, length))
            return ffi.new(kind, length)

    monkeypatch.setattr(vm_module, "ffi", Recording())
    vm.set_msr_filter([(0x10, count, 1)])
    assert made == [("__u8[]", size)]


def test_a_device_that_is_only_tried_takes_nobodys_fd(kernel: FakeKernel, vm: Vm) -> None:
    """KVM_CREATE_DEVICE_TEST makes no fd: what is in the struct is not one, and 0 is stdin."""
    device = vm.create_device(lib.KVM_DEV_TYPE_VFIO, lib.KVM_CREATE_DEVICE_TEST)
    assert device.closed
    device.close()
    os.fstat(0)


# ------------------------------------------------------------------ bytes


def bytes_cases(vm: Vm) -> dict[str, Callable[[bytes], object]]:
    snp, tdx = Snp(vm, -1), Tdx(vm)
    return {
        "gosvw": lambda data: snp.launch_start(gosvw=data),
        "host_data": lambda data: snp.launch_finish(host_data=data),
        "mrconfigid": lambda data: tdx.init_vm(cpuid=[], mrconfigid=data),
        "mrowner": lambda data: tdx.init_vm(cpuid=[], mrowner=data),
        "mrownerconfig": lambda data: tdx.init_vm(cpuid=[], mrownerconfig=data),
    }


SIZES = {"gosvw": 16, "host_data": 32, "mrconfigid": 48, "mrowner": 48, "mrownerconfig": 48}


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("extra", [1, 4, 4096])
def test_bytes_longer_than_their_field_are_refused(
    kernel: FakeKernel, vm: Vm, field: str, extra: int
) -> None:
    size = SIZES[field]
    fill = bytes_cases(vm)[field]
    with pytest.raises(ValueError, match=f"{field} has {size} bytes; {size + extra} were given"):
        fill(b"\xff" * (size + extra))
    with pytest.raises(TypeError, match=f"{field}: bytes are required, not int"):
        fill(5)  # type: ignore[arg-type]
    assert kernel.name == ""


@pytest.mark.parametrize("field", SIZES)
def test_shorter_bytes_are_padded_and_run_into_nothing(
    kernel: FakeKernel, vm: Vm, field: str
) -> None:
    seen: dict[str, bytes] = {}

    def look(command: Any) -> int:
        is_tdx = ffi.typeof(command).item.cname == "struct kvm_tdx_cmd"
        struct = {
            "gosvw": "kvm_sev_snp_launch_start",
            "host_data": "kvm_sev_snp_launch_finish",
        }.get(field, "kvm_tdx_init_vm")
        assert is_tdx == (struct == "kvm_tdx_init_vm")
        data = ffi.cast(f"struct {struct} *", command.data)
        seen[field] = bytes(ffi.buffer(getattr(data, field)))
        if not is_tdx:
            seen["flags"] = int(data.flags).to_bytes(2, "little")
        return 0

    kernel.answers["KVM_MEMORY_ENCRYPT_OP"] = look
    size = SIZES[field]
    for given in (b"\xff" * size, b"\xff" * 3, bytearray(b"\xff"), memoryview(b"\xff" * 7), b""):
        bytes_cases(vm)[field](given)  # type: ignore[arg-type]
        assert seen[field] == bytes(given).ljust(size, b"\0")
        assert seen.get("flags", bytes(2)) == bytes(2)


@pytest.mark.parametrize(
    ("name", "size", "given"),
    [
        ("id_block", 96, 95),
        ("id_block", 96, 97),
        ("id_auth", 4096, 0),
        ("id_auth", 4096, 4095),
        ("id_auth", 4096, 4097),
    ],
)
def test_an_id_block_has_the_length_that_the_firmware_reads(
    kernel: FakeKernel, vm: Vm, name: str, size: int, given: int
) -> None:
    blocks: dict[str, Any] = {name: bytes(given)}
    with pytest.raises(ValueError, match=f"{name} has to be {size} bytes; {given} were given"):
        Snp(vm, -1).launch_finish(**blocks)
    assert kernel.name == ""


# ------------------------------------------------------------------ structs


def test_structs_are_checked_by_type(kernel: FakeKernel, kvm: Kvm, vcpu: Vcpu) -> None:
    regs, sregs, sregs2 = vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_sregs2()
    cpuid = kvm.get_supported_cpuid()
    kernel.name = ""
    wrong: list[Any] = [None, 5, b"x" * 4096, "struct kvm_regs *", ffi.NULL, regs.pointer]
    call: Callable[[Any], object]
    for call, kind, others in (
        (vcpu.set_regs, "Regs", [sregs, cpuid, *wrong]),
        (vcpu.set_sregs, "Sregs", [regs, cpuid, sregs2, *wrong]),
        (vcpu.set_sregs2, "Sregs2", [regs, cpuid, sregs, *wrong]),
        (vcpu.set_cpuid2, "Cpuid", [regs, sregs, *wrong]),
    ):
        for other in others:
            with pytest.raises(TypeError, match=rf"^a {kind} is required, not \w+"):
                call(other)
    with pytest.raises(TypeError, match=r"^cpuid\[1\]: a CpuidEntry is required, not Regs"):
        vcpu.set_cpuid2([CpuidEntry(0), regs])  # type: ignore[list-item]
    assert kernel.name == ""
    vcpu.set_regs(regs)
    vcpu.set_sregs(sregs)
    vcpu.set_cpuid2(cpuid)


def test_a_cpuid_has_as_many_entries_as_it_says(kernel: FakeKernel, vcpu: Vcpu) -> None:
    def too_many(cpuid: Any) -> int:
        cpuid.nent = 10_000_000
        return 0

    kernel.answers["KVM_GET_CPUID2"] = too_many
    assert len(vcpu.get_cpuid2()) == 256
    given = bytes(Cpuid([CpuidEntry(0), CpuidEntry(1)]))
    for nent in (0, 1, 3, 2**32 - 1):
        with pytest.raises(ValueError, match=f"nent is {nent}, of 2 entries"):
            Cpuid.from_bytes(nent.to_bytes(4, "little") + given[4:])
    for size in (0, 7, 9, len(given) - 1):
        with pytest.raises(ValueError, match=f"{size} bytes are no struct kvm_cpuid2"):
            Cpuid.from_bytes(given[:size])


def test_launch_commands_are_checked_by_type(kernel: FakeKernel, vm: Vm, vcpu: Vcpu) -> None:
    region = TdxInitMemRegion()
    wrong: Any
    for wrong in (None, 5, region, ffi.NULL, ffi.new("struct kvm_sev_cmd *")):
        with pytest.raises(TypeError, match=r"^a SevCommand or a TdxCommand is required, not "):
            vm.memory_encrypt_op(wrong)
        with pytest.raises(TypeError, match=r"^a TdxCommand is required, not "):
            vcpu.memory_encrypt_op(wrong)
    with pytest.raises(TypeError, match="a SnpLaunchStart is required, not TdxInitMemRegion"):
        Snp(vm, -1).try_.command(lib.KVM_SEV_SNP_LAUNCH_START, region)
    with pytest.raises(TypeError, match="a struct kvm_tdx_init_vm \\* is required, not int"):
        Tdx(vm).try_.command(lib.KVM_TDX_INIT_VM, 0x10)
    assert kernel.name == ""
    Snp(vm, -1).try_.raw_command(lib.KVM_SEV_SNP_LAUNCH_START, 0x10)
    assert kernel.argument["data"] == 0x10
    Tdx(vm).try_.raw_command(lib.KVM_TDX_INIT_VM, 0x10, flags=7)
    assert (kernel.argument["data"], kernel.argument["flags"]) == (0x10, 7)


def test_a_command_nobody_knows_gets_a_copy_with_a_fence(kernel: FakeKernel, vm: Vm) -> None:
    parameters = TdxInitMemRegion(gpa=7)

    def answer(command: Any) -> int:
        size = ffi.sizeof("struct kvm_tdx_init_mem_region")
        assert int.from_bytes(guarded_read(int(command.data), size)[8:16], "little") == 7
        guarded_write(int(command.data), b"\1" * size)
        with pytest.raises(HarnessError):
            guarded_write(int(command.data), b"\1" * (size + 1))
        return 0

    kernel.answers["KVM_MEMORY_ENCRYPT_OP"] = answer
    assert Tdx(vm).try_.command(4711, parameters).ok
    assert parameters.gpa == int.from_bytes(b"\1" * 8, "little")
    parameters.gpa = 7
    assert Snp(vm, -1).try_.command(4711, parameters).ok
    assert parameters.gpa == int.from_bytes(b"\1" * 8, "little")


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("KVM_GET_REGS", "struct kvm_irq_level *"),
        ("KVM_GET_LAPIC", "struct kvm_regs *"),
        ("KVM_MEMORY_ENCRYPT_OP", "__u64 *"),
        ("KVM_SET_USER_MEMORY_REGION2", "struct kvm_userspace_memory_region *"),
    ],
)
def test_an_ioctl_takes_no_struct_smaller_than_its_own(
    kernel: FakeKernel, name: str, argument: str
) -> None:
    with pytest.raises(TypeError, match=f"{name} takes .* bytes"):
        ioctl.call(1, name, ffi.new(argument))
    assert kernel.name == ""


def test_an_ioctl_with_a_struct_takes_no_number(kernel: FakeKernel) -> None:
    argument: Any
    for argument in (0, 0x10, 2**64 - 1):
        with pytest.raises(TypeError, match="takes a struct, not a number"):
            ioctl.call(1, "KVM_GET_REGS", argument)
    for argument in (b"x" * 4096, "x", 1.5, ffi.NULL, ffi.cast("void *", 0x1000)):
        with pytest.raises(TypeError):
            ioctl.call(1, "KVM_GET_REGS", argument)
    assert kernel.name == ""


def test_a_list_says_no_more_than_it_has(kernel: FakeKernel) -> None:
    routing = ffi.new("struct kvm_irq_routing *", {"nr": 2, "entries": 1})
    with pytest.raises(ValueError, match="KVM_SET_GSI_ROUTING: nr is 2, of 1 that there are"):
        ioctl.call(1, "KVM_SET_GSI_ROUTING", routing)
    msrs = ffi.new("struct kvm_msrs *", {"nmsrs": 5, "entries": 4})
    with pytest.raises(ValueError, match="KVM_GET_MSRS: nmsrs is 5, of 4 that there are"):
        ioctl.call(1, "KVM_GET_MSRS", msrs)
    assert kernel.name == ""
    state = ffi.new("struct kvm_nested_state *")
    state.size = ffi.sizeof("struct kvm_nested_state") + 1
    with pytest.raises(ValueError, match=r"KVM_GET_NESTED_STATE: size is \d+, of \d+ that"):
        ioctl.call(1, "KVM_GET_NESTED_STATE", state)
    assert kernel.name == ""
    msrs.nmsrs = 4
    assert ioctl.call(1, "KVM_GET_MSRS", msrs).ok


# ------------------------------------------------------------------ the run page


def test_the_run_page_of_a_closed_vcpu(kernel: FakeKernel, vcpu: Vcpu) -> None:
    view = vcpu.kvm_run
    view.exit_reason = lib.KVM_EXIT_HLT
    assert isinstance(view.exit, HltExit)
    kept, copied, part = view.pointer, copy.copy(view), view.sync.regs
    part.rax = 5
    vcpu.close()
    uses: list[Callable[[KvmRun], object]] = [
        lambda run: run.exit_reason,
        lambda run: run.exit,
        lambda run: run.sync,
        bytes,
        repr,
    ]
    for use in uses:
        with pytest.raises(HarnessError, match="the vCPU is closed"):
            use(view)
    with pytest.raises(HarnessError, match="the vCPU is closed"):
        view.immediate_exit = 1
    assert isinstance(copied.exit, HltExit)
    closed = "vCPU 3 is closed"
    with pytest.raises(HarnessError, match=closed):
        _ = vcpu.kvm_run
    with pytest.raises(HarnessError, match=closed):
        vcpu.complete_io(IoExit(lib.KVM_EXIT_IO, False, 1, 1, 1, b"", 4096), b"1")
    with pytest.raises(HarnessError, match=closed):
        vcpu.complete_io(MmioExit(lib.KVM_EXIT_MMIO, False, 0, 8, b""), b"1")
    with pytest.raises(HarnessError, match=closed):
        vcpu.complete_msr(1)
    with pytest.raises(HarnessError, match=closed):
        vcpu.complete_hypercall(1)
    vcpu.kick()
    # Memory still, of nobody's: who kept the pointer may write where it points.
    assert kept.exit_reason == 0
    kept.immediate_exit = 1
    assert part.rax == 0
    part.rax = 1


@pytest.mark.parametrize(
    ("size", "count", "offset"),
    [
        (1, 1, 12288),
        (4, 1, 12285),
        (8, 1 << 29, 4096),
        (1, 1, -1),
        (-4, 1, 4096),
        (1, 1, 2**64),
        (1, 1, 2**40),
    ],
)
def test_an_answer_outside_the_run_page(
    kernel: FakeKernel, vcpu: Vcpu, size: int, count: int, offset: int
) -> None:
    forged = IoExit(lib.KVM_EXIT_IO, False, 0x10, size, count, b"", offset)
    with pytest.raises(ValueError, match="lies outside the 0x3000 bytes of kvm_run"):
        vcpu.complete_io(forged, b"1")


def test_an_answer_longer_than_the_access(kernel: FakeKernel, vcpu: Vcpu) -> None:
    with pytest.raises(ValueError, match="data has 2 bytes; 3 were given"):
        vcpu.complete_io(IoExit(lib.KVM_EXIT_IO, False, 1, 2, 1, b"", 4096), b"123")
    with pytest.raises(ValueError, match="data has 4 bytes; 5 were given"):
        vcpu.complete_io(MmioExit(lib.KVM_EXIT_MMIO, False, 0, 4, b""), b"12345")
    with pytest.raises(ValueError, match="up to 8 bytes, not 9"):
        vcpu.complete_io(MmioExit(lib.KVM_EXIT_MMIO, False, 0, 9, b""), b"1")
    with pytest.raises(TypeError, match="data: bytes are required"):
        vcpu.complete_io(MmioExit(lib.KVM_EXIT_MMIO, False, 0, 8, b""), 8)  # type: ignore[arg-type]


def test_an_exit_whose_data_lies_outside_the_run_page(kernel: FakeKernel, vcpu: Vcpu) -> None:
    run = vcpu.kvm_run.pointer
    run.exit_reason = lib.KVM_EXIT_IO
    run.io.size, run.io.count, run.io.data_offset = 1, 1, 8191
    run.io.direction = lib.KVM_EXIT_IO_OUT
    assert isinstance(read_exit(run, size=8192), Exit)
    for size, count, offset in ((1, 2, 8191), (4, 2**31, 4096), (1, 1, 2**63), (1, 1, 8192)):
        run.io.size, run.io.count, run.io.data_offset = size, count, offset
        with pytest.raises(HarnessError, match="outside the 0x2000 of kvm_run"):
            read_exit(run, size=8192)


# ------------------------------------------------------------------ integers

#: A call with a value that its field can't hold, and what the error has to name.
TOO_WIDE: dict[str, tuple[Callable[[Vm], object], str]] = {
    "capability": (lambda vm: vm.enable_cap(2**32), "kvm_enable_cap.cap"),
    "args": (lambda vm: vm.enable_cap(1, 2**64), "kvm_enable_cap.args"),
    "slot": (lambda vm: vm.set_user_memory_region(2**32, 0, 0, 0), "region.slot"),
    "gpa": (lambda vm: vm.set_user_memory_region(0, -1, 0, 0), "region.guest_phys_addr"),
    "size": (lambda vm: vm.set_user_memory_region2(0, 0, 2**64, 0), "region2.memory_size"),
    "userspace_addr": (
        lambda vm: vm.set_user_memory_region2(0, 0, 0, 2**64),
        "region2.userspace_addr",
    ),
    "guest_memfd": (lambda vm: vm.set_user_memory_region2(0, 0, 0, 0, 0, 2**32), "guest_memfd"),
    "attributes": (lambda vm: vm.set_memory_attributes(0, 0, 2**64), "attributes.attributes"),
    "irq": (lambda vm: vm.irq_line(2**32, 0), "kvm_irq_level.irq"),
    "msi address": (lambda vm: vm.signal_msi(2**64, 0), "address"),
    "msi data": (lambda vm: vm.signal_msi(0, 2**32), "kvm_msi.data"),
    "eventfd": (lambda vm: vm.irqfd(2**40, 0), "eventfd"),
    "ioeventfd": (lambda vm: vm.ioeventfd(2**31, 0, 0), "kvm_ioeventfd.fd"),
    "length": (lambda vm: vm.ioeventfd(0, 0, -1), "kvm_ioeventfd.len"),
    "device": (lambda vm: vm.create_device(2**32), "kvm_create_device.type"),
    "filter": (lambda vm: vm.set_msr_filter([(2**32, 1, 1)]), "kvm_msr_filter_range.base"),
    "region": (lambda vm: vm.memory_encrypt_region(2**64, 1), "kvm_enc_region.addr"),
    "memfd": (lambda vm: vm.create_guest_memfd(2**64), "kvm_create_guest_memfd.size"),
    "by value": (lambda vm: vm.set_tss_addr(2**64), "the ioctl's argument"),
    "negative by value": (lambda vm: vm.create_vcpu(-(2**63) - 1), "the ioctl's argument"),
    "policy": (lambda vm: Snp(vm, -1).launch_start(2**64), "launch_start.policy"),
    "type": (
        lambda vm: Snp(vm, -1).try_.launch_update(0, 0, source=None, type=256),
        "launch_update.type",
    ),
    "flags": (lambda vm: Snp(vm, -1).launch_finish(flags=2**16), "launch_finish.flags"),
    "sev_fd": (lambda vm: Snp(vm, 2**32).init2(), "sev_fd"),
    "xfam": (lambda vm: Tdx(vm).init_vm(cpuid=[], xfam=2**64), "kvm_tdx_init_vm.xfam"),
    "cpuid": (
        lambda vm: Tdx(vm).init_vm(cpuid=[CpuidEntry(0), CpuidEntry(1, ebx=2**32)]),
        r"cpuid\[1\].ebx",
    ),
    "tdx flags": (lambda vm: Tdx(vm).finalize_vm(flags=2**32), "kvm_tdx_cmd.flags"),
}


@pytest.mark.parametrize("case", TOO_WIDE)
def test_a_value_that_its_field_can_not_hold(
    kernel: FakeKernel, vm: Vm, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, field = TOO_WIDE[case]
    if "value" in case:
        monkeypatch.undo()  # the real call, which refuses before there is any
    with pytest.raises(OverflowError, match=field):
        call(vm)
    assert kernel.name == ""


def test_a_value_of_another_type_names_its_field(kernel: FakeKernel, vm: Vm) -> None:
    wrong: Any
    for wrong in (None, 1.5, "1", b"1"):
        with pytest.raises(TypeError, match=r"kvm_memory_attributes\.size"):
            vm.set_memory_attributes(0, wrong, 0)
    assert kernel.name == ""


def test_vcpu_values_that_their_fields_can_not_hold(kernel: FakeKernel, vcpu: Vcpu) -> None:
    for call, field in (
        (lambda: vcpu.get_msrs([0x10, 2**32]), "kvm_msr_entry.index"),
        (lambda: vcpu.set_msrs({0x10: 2**64}), "kvm_msr_entry.data"),
        (lambda: vcpu.interrupt(-1), "kvm_interrupt.irq"),
        (lambda: vcpu.set_mp_state(2**32), "kvm_mp_state.mp_state"),
        (lambda: vcpu.set_guest_debug(2**32), "kvm_guest_debug.control"),
        (lambda: vcpu.pre_fault_memory(2**64, 0), "kvm_pre_fault_memory.gpa"),
        (lambda: vcpu.complete_msr(2**64), "data"),
        (lambda: vcpu.complete_hypercall(2**64), "value"),
        (lambda: TdxVcpu(vcpu).init_vcpu(2**64), "data"),
    ):
        with pytest.raises(OverflowError, match=field):
            call()
    assert kernel.name == ""


def test_too_many_arguments_of_a_capability(kernel: FakeKernel, vm: Vm, vcpu: Vcpu) -> None:
    for call in (vm.enable_cap, vcpu.enable_cap):
        with pytest.raises(ValueError, match="args: KVM_ENABLE_CAP takes up to 4, not 5"):
            call(1, 1, 2, 3, 4, 5)


def test_system_calls_name_their_arguments() -> None:
    anonymous = MAP_PRIVATE | MAP_ANONYMOUS
    with map_memory(PAGE_SIZE, flags=anonymous) as mapping:
        for call, field in (
            (lambda: try_mmap(2**64), "size"),
            (lambda: try_mmap(PAGE_SIZE, flags=2**31), "flags"),
            (lambda: try_mmap(PAGE_SIZE, offset=2**63), "offset"),
            (lambda: mapping.try_madvise(2**31), "advice"),
            (lambda: mapping.protect(2**31), "prot"),
            (lambda: mapping.try_mbind(0, 2**64), "nodes"),
            (lambda: mapping.fill(0, 1, 256), "byte"),
            (lambda: guarded_read(2**64, 1), "address"),
            (lambda: guarded_write(-1, b"1"), "address"),
        ):
            with pytest.raises(OverflowError, match=f"^{field}: "):
                call()
    with GuestMemfd(os.memfd_create("memfd"), PAGE_SIZE, 0) as memfd:
        with pytest.raises(OverflowError, match=r"^offset: "):
            memfd.allocate(2**63, 1)
        with pytest.raises(OverflowError, match=r"^mode: "):
            memfd.fallocate(2**31, 0, 1)


def test_a_range_that_wraps_around_the_address_space_is_a_fault() -> None:
    for address in (2**64 - 8, 2**64 - PAGE_SIZE):
        with pytest.raises(HarnessError, match="SIGSEGV"):
            guarded_read(address, 2 * PAGE_SIZE)
        with pytest.raises(HarnessError, match="SIGSEGV"):
            guarded_write(address, bytes(2 * PAGE_SIZE))


# ------------------------------------------------------------------ memory of others


def test_a_fixed_mapping_replaces_no_memory_that_is_nobodys() -> None:
    """MAP_FIXED over the heap, or over a library, would end the interpreter."""
    anonymous = MAP_PRIVATE | MAP_ANONYMOUS
    buffer = ffi.new("char[]", 16 * PAGE_SIZE)
    inside = int(ffi.cast("uintptr_t", buffer)) // PAGE_SIZE * PAGE_SIZE + PAGE_SIZE
    result = try_mmap(PAGE_SIZE, flags=anonymous | MAP_FIXED, address=inside)
    assert result.errno_name == "EEXIST"
    with map_memory(3 * PAGE_SIZE, flags=anonymous) as own:
        own.write(PAGE_SIZE, b"before")
        middle = own.address + PAGE_SIZE
        replaced = map_memory(PAGE_SIZE, flags=anonymous | MAP_FIXED, address=middle)
        assert own.read(PAGE_SIZE, 6) == bytes(6)
        straddling = try_mmap(4 * PAGE_SIZE, flags=anonymous | MAP_FIXED, address=own.address)
        assert straddling.errno_name == "EEXIST"
        own.unmap(PAGE_SIZE, PAGE_SIZE)
        replaced._open = False  # it went with the hole


# ------------------------------------------------------------------ the raw door


def test_the_raw_door_takes_any_size(kernel: FakeKernel, vm: Vm) -> None:
    seen: list[tuple[int, bytes]] = []

    def issue(argument: Any) -> int:
        try:
            seen.append((int(argument), guarded_read(int(argument), 8)))
            guarded_write(int(argument), b"\1" * 8)
        except HarnessError:
            return -errno.EFAULT
        return 0

    kernel.answers["KVM_SET_MEMORY_ATTRIBUTES"] = issue
    call = "KVM_SET_MEMORY_ATTRIBUTES"
    buffer = bytearray(b"\2" * 8)
    assert raw_ioctl(vm, call, buffer).ok
    assert seen[-1][1] == b"\2" * 8
    assert buffer == b"\1" * 8  # what the kernel left
    assert raw_ioctl(vm, call, bytes(8)).ok
    for short in (b"", b"1234567", bytearray(7)):
        assert raw_ioctl(vm, call, short).errno_name == "EFAULT", short
    struct = ffi.new("struct kvm_irq_level *", {"irq": 5})
    assert raw_ioctl(vm, int(lib.KVM_SET_MEMORY_ATTRIBUTES), struct).ok
    assert struct.irq == 0x01010101
    typed = ClockData()
    assert raw_ioctl(vm, call, typed).ok
    assert typed.clock == 0x01010101_01010101
    assert raw_ioctl(vm, call, 0x10).errno_name == "EFAULT"
    assert (kernel.fd, kernel.argument) == (vm.fileno(), 0x10)
    with pytest.raises(OverflowError, match="argument"):
        raw_ioctl(vm, call, 2**64)
    with pytest.raises(TypeError):
        raw_ioctl(vm, call, 1.5)
