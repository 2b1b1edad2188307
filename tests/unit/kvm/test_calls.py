# SPDX-License-Identifier: MIT
"""Which ioctl each method makes, on which fd, with what in its struct; the kernel is a fake."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm.device import Device, get_device_attr_u64
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.memory_encrypt import SevCommand, TdxCommand
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine import builder
from kvmharness.machine import machine as machine_module
from kvmharness.machine.running import VcpuThread

from .fake_kernel import DEVICE_FD, MMAP_SIZE, VM_FD, FakeKernel, disowned, mappable

# ------------------------------------------------------------------ one call, one struct

SIMPLE: dict[str, tuple[Callable[[Any], object], str, Any]] = {
    "check_extension": (lambda vm: vm.check_extension(233), "KVM_CHECK_EXTENSION", 233),
    "set_user_memory_region": (
        lambda vm: vm.set_user_memory_region(1, 0x2000, 0x3000, 0x4000, 5),
        "KVM_SET_USER_MEMORY_REGION",
        {
            "slot": 1,
            "flags": 5,
            "guest_phys_addr": 0x2000,
            "memory_size": 0x3000,
            "userspace_addr": 0x4000,
        },
    ),
    "set_user_memory_region2": (
        lambda vm: vm.set_user_memory_region2(1, 0x2000, 0x3000, 0x4000, 4, 77, 0x5000),
        "KVM_SET_USER_MEMORY_REGION2",
        {
            "slot": 1,
            "flags": 4,
            "guest_phys_addr": 0x2000,
            "memory_size": 0x3000,
            "userspace_addr": 0x4000,
            "guest_memfd_offset": 0x5000,
            "guest_memfd": 77,
        },
    ),
    "set_memory_attributes": (
        lambda vm: vm.set_memory_attributes(0x1000, 0x2000, 8, 1),
        "KVM_SET_MEMORY_ATTRIBUTES",
        {"address": 0x1000, "size": 0x2000, "attributes": 8, "flags": 1},
    ),
    "set_private": (
        lambda vm: vm.set_private(0x1000, 0x2000),
        "KVM_SET_MEMORY_ATTRIBUTES",
        {"address": 0x1000, "size": 0x2000, "attributes": 8, "flags": 0},
    ),
    "set_shared": (
        lambda vm: vm.set_shared(0x1000, 0x2000),
        "KVM_SET_MEMORY_ATTRIBUTES",
        {"address": 0x1000, "size": 0x2000, "attributes": 0, "flags": 0},
    ),
    "create_irqchip": (lambda vm: vm.create_irqchip(), "KVM_CREATE_IRQCHIP", None),
    "irq_line": (
        lambda vm: vm.irq_line(5, 1),
        "KVM_IRQ_LINE",
        {"irq": 5, "status": 5, "level": 1},
    ),
    "set_tss_addr": (lambda vm: vm.set_tss_addr(0xFFFB_D000), "KVM_SET_TSS_ADDR", 0xFFFB_D000),
    "set_tsc_khz": (lambda vm: vm.set_tsc_khz(2_000_000), "KVM_SET_TSC_KHZ", 2_000_000),
    "region registered": (
        lambda vm: vm.memory_encrypt_region(0x1000, 0x2000),
        "KVM_MEMORY_ENCRYPT_REG_REGION",
        {"addr": 0x1000, "size": 0x2000},
    ),
    "region given up": (
        lambda vm: vm.memory_encrypt_region(0x1000, 0x2000, register=False),
        "KVM_MEMORY_ENCRYPT_UNREG_REGION",
        {"addr": 0x1000, "size": 0x2000},
    ),
}


@pytest.mark.parametrize("method", SIMPLE)
def test_vm_calls(kernel: FakeKernel, vm: Vm, method: str) -> None:
    call, name, argument = SIMPLE[method]
    call(vm)
    assert (kernel.fd, kernel.name, kernel.argument) == (VM_FD, name, argument)
    kernel.answers[name] = -errno.EPERM
    with pytest.raises(KvmError, match=f"{name} failed: EPERM"):
        call(vm)


def test_enable_cap_has_up_to_four_arguments(kernel: FakeKernel, vm: Vm) -> None:
    vm.enable_cap(188, 1, 2, 3, 4, flags=6)
    assert kernel.argument["cap"] == 188
    assert kernel.argument["flags"] == 6
    assert kernel.argument["args"] == [1, 2, 3, 4]
    vm.enable_split_irqchip(24)
    assert kernel.argument["cap"] == lib.KVM_CAP_SPLIT_IRQCHIP
    assert kernel.argument["args"] == [24, 0, 0, 0]


@pytest.mark.parametrize("fd", [-1, 2**32 - 1])
def test_a_guest_memfd_of_minus_one_is_all_ones(kernel: FakeKernel, vm: Vm, fd: int) -> None:
    vm.set_user_memory_region2(0, 0, 0, 0, 0, fd)
    assert kernel.argument["guest_memfd"] == 2**32 - 1


def test_objects_pass_their_fd(kernel: FakeKernel, vm: Vm) -> None:
    with OwnedFd(os.dup(0)) as fd:
        vm.set_user_memory_region2(0, 0, 0, 0, 0, fd)
        assert kernel.argument["guest_memfd"] == fd.fileno()
        vm.irqfd(fd, 4, 1)
        assert kernel.argument["fd"] == fd.fileno()
        vm.ioeventfd(fd, 0x3F8, 1, 4, 9)
        assert kernel.argument["fd"] == fd.fileno()


def test_eventfds(kernel: FakeKernel, vm: Vm) -> None:
    vm.irqfd(7, 4, lib.KVM_IRQFD_FLAG_DEASSIGN)
    assert kernel.name == "KVM_IRQFD"
    assert (kernel.argument["fd"], kernel.argument["gsi"], kernel.argument["flags"]) == (7, 4, 1)
    vm.irqfd(-1, 4)
    assert kernel.argument["fd"] == 2**32 - 1
    vm.ioeventfd(-1, 0xD000_0000, 8, 5, 2**64 - 1)
    assert kernel.name == "KVM_IOEVENTFD"
    wanted = {"fd": -1, "addr": 0xD000_0000, "len": 8, "flags": 5, "datamatch": 2**64 - 1}
    assert {key: kernel.argument[key] for key in wanted} == wanted


def test_a_message_address_is_split(kernel: FakeKernel, vm: Vm) -> None:
    vm.signal_msi(0x12_FEE0_1000, 0x4030)
    assert kernel.argument["address_lo"] == 0xFEE0_1000
    assert kernel.argument["address_hi"] == 0x12
    assert kernel.argument["data"] == 0x4030


def test_the_dirty_log_is_the_bitmap_the_kernel_fills(kernel: FakeKernel, vm: Vm) -> None:
    def fill(log: Any) -> int:
        ffi.cast("__u64 *", log.dirty_bitmap)[1] = 5
        return 0

    kernel.answers["KVM_GET_DIRTY_LOG"] = fill
    bitmap = vm.get_dirty_log(3, 65)
    assert len(bitmap) == 16  # whole 64-bit words
    assert int.from_bytes(bitmap, "little") == 5 << 64
    assert kernel.argument["slot"] == 3
    kernel.answers["KVM_GET_DIRTY_LOG"] = -errno.ENOENT
    assert vm.try_.get_dirty_log(3, 0).value is None


def test_an_msr_filter_has_a_bitmap_for_each_range(kernel: FakeKernel, vm: Vm) -> None:
    seen: list[tuple[int, int, int, bytes]] = []

    def look(msr_filter: Any) -> int:
        for msr_range in msr_filter.ranges:
            if msr_range.nmsrs:
                bitmap = bytes(ffi.buffer(msr_range.bitmap, (msr_range.nmsrs + 7) // 8))
                seen.append((msr_range.base, msr_range.nmsrs, msr_range.flags, bitmap))
        return 0

    kernel.answers["KVM_X86_SET_MSR_FILTER"] = look
    vm.set_msr_filter([(0x10, 9, 3), (0xC000_0080, 1, 1)], flags=1)
    assert seen == [(0x10, 9, 3, b"\0\0"), (0xC000_0080, 1, 1, b"\0")]
    assert kernel.argument["flags"] == 1
    with pytest.raises(ValueError, match="ranges: at most 16, not 17"):
        vm.set_msr_filter([(0, 1, 1)] * (lib.KVM_MSR_FILTER_MAX_RANGES + 1))


def test_the_launch_command_brings_the_firmwares_code(kernel: FakeKernel, vm: Vm) -> None:
    def refuse(command: Any) -> int:
        command.error = 0x16
        return -errno.EIO

    kernel.answers["KVM_MEMORY_ENCRYPT_OP"] = refuse
    result = vm.try_.memory_encrypt_op(SevCommand())
    assert (result.errno_name, result.fw_error) == ("EIO", 0x16)
    kernel.answers["KVM_MEMORY_ENCRYPT_OP"] = 0
    assert vm.try_.memory_encrypt_op(TdxCommand(hw_error=7)).fw_error == 7


# ------------------------------------------------------------------ calls that make objects


def test_a_guest_memfd_is_made_and_is_not_inherited(kernel: FakeKernel, vm: Vm) -> None:
    fd = os.memfd_create("guest_memfd", 0)  # inheritable, as the kernel makes it
    kernel.answers["KVM_CREATE_GUEST_MEMFD"] = fd
    with vm.create_guest_memfd(0x4000, 3) as memfd:
        assert isinstance(memfd, GuestMemfd)
        assert (memfd.fileno(), memfd.size, memfd.flags) == (fd, 0x4000, 3)
        assert (kernel.argument["size"], kernel.argument["flags"]) == (0x4000, 3)
        assert not os.get_inheritable(fd)


def test_a_vcpu_is_made_and_mapped(kernel: FakeKernel, vm: Vm) -> None:
    kernel.answers["KVM_CREATE_VCPU"] = mappable()
    with vm.create_vcpu(5) as made:
        assert (kernel.fd, kernel.argument) == (VM_FD, 5)
        assert made.id == 5
        assert made.kvm_run.exit_reason == 0


def test_a_vcpu_that_can_not_be_mapped_is_closed(kernel: FakeKernel, vm: Vm) -> None:
    fd = os.eventfd(0)
    kernel.answers["KVM_CREATE_VCPU"] = fd
    with pytest.raises(KvmError, match="mmap failed: ENODEV"):
        vm.create_vcpu(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_device_is_made_from_the_fd_in_its_struct(kernel: FakeKernel, vm: Vm) -> None:
    fd = os.dup(0)

    def create(arguments: Any) -> int:
        arguments.fd = fd
        return 0

    kernel.answers["KVM_CREATE_DEVICE"] = create
    with vm.create_device(4, 1) as device:
        assert device.fileno() == fd
        assert kernel.argument["type"] == 4
        assert kernel.argument["flags"] == 1


@pytest.mark.parametrize(
    "make", ["create_guest_memfd", "create_vcpu", "create_device"], ids=lambda name: name
)
def test_what_is_refused_makes_no_object(kernel: FakeKernel, vm: Vm, make: str) -> None:
    kernel.answers[f"KVM_{make.upper()}"] = -errno.EINVAL
    result = getattr(vm.try_, make)(1)
    assert (result.errno_name, result.value) == ("EINVAL", None)


def test_a_vm_is_made_of_the_type_asked_for(kernel: FakeKernel, kvm: Kvm) -> None:
    kernel.answers["KVM_CHECK_EXTENSION"] = 1 << VmType.SNP | 1
    kernel.answers["KVM_CREATE_VM"] = os.dup(0)
    with kvm.create_vm(VmType.SNP) as vm:
        assert (kernel.name, kernel.argument) == ("KVM_CREATE_VM", 4)
        assert (vm.vm_type, vm.vcpu_mmap_size) == (VmType.SNP, MMAP_SIZE)


def test_a_vm_whose_size_can_not_be_asked_is_not_made(kernel: FakeKernel, kvm: Kvm) -> None:
    kernel.answers["KVM_GET_VCPU_MMAP_SIZE"] = -errno.EINVAL
    kernel.answers["KVM_CREATE_VM"] = lambda _: pytest.fail("a VM was made, and would leak")
    with pytest.raises(KvmError, match="KVM_GET_VCPU_MMAP_SIZE failed"):
        kvm.create_vm()


def test_vm_types_are_the_capabilitys_bits(kernel: FakeKernel, kvm: Kvm) -> None:
    kernel.answers["KVM_CHECK_EXTENSION"] = 0
    assert kvm.vm_types() == {VmType.DEFAULT}  # before KVM_CAP_VM_TYPES
    kernel.answers["KVM_CHECK_EXTENSION"] = 0b110001
    assert kvm.vm_types() == {VmType.DEFAULT, VmType.SNP, VmType.TDX}


@pytest.mark.parametrize("vm_type", [t for t in VmType if t is not VmType.DEFAULT])
@pytest.mark.parametrize("mask", [0, 1])
def test_a_missing_vm_type_has_a_reason(
    kernel: FakeKernel, kvm: Kvm, vm_type: VmType, mask: int
) -> None:
    kernel.answers["KVM_CHECK_EXTENSION"] = mask
    with pytest.raises(MissingCapability) as missing:
        kvm.create_vm(vm_type)
    assert missing.value.what == f"VM type {vm_type.label}"
    assert ("KVM_CAP_VM_TYPES" in missing.value.reason) == (mask == 0)


def test_a_number_that_is_no_vm_type_is_told_which_are(kernel: FakeKernel, kvm: Kvm) -> None:
    kernel.answers["KVM_CREATE_VM"] = -errno.EINVAL
    with pytest.raises(KvmError, match="no VM type has the number 99: default 0, sw-protected 1"):
        kvm.create_vm(99)
    with pytest.raises(ValueError, match="unknown VM type 'sevsnp': one of default \\(0\\), sw-"):
        kvm.create_vm("sevsnp")
    kernel.answers["KVM_CHECK_EXTENSION"] = 0b10001
    result = kvm.try_.create_vm("snp")
    assert "VM type snp: kvm_amd offers no SEV-SNP here" in str(KvmError(result))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nonexistent/kvm", "no KVM on this machine"), ("/proc/1/mem/kvm", "Not a directory")],
)
def test_a_device_that_can_not_be_opened_is_missing(path: str, reason: str) -> None:
    with pytest.raises(MissingCapability) as missing:
        Kvm.open(path)
    assert missing.value.what == path
    assert reason in missing.value.reason


# ------------------------------------------------------------------ what the kernel fills in


def test_cpuid_is_a_list_for_the_vcpu(kernel: FakeKernel, kvm: Kvm, vcpu: Vcpu) -> None:
    def fill(cpuid: Any) -> int:
        assert cpuid.nent == 256
        cpuid.nent = 1
        cpuid.entries[0].function = 0x4000_0000
        return 0

    kernel.answers["KVM_GET_SUPPORTED_CPUID"] = fill
    cpuid = kvm.get_supported_cpuid()
    assert (cpuid.nent, cpuid[0].function) == (1, 0x4000_0000)
    vcpu.set_cpuid2(cpuid)
    assert (kernel.name, kernel.argument["nent"]) == ("KVM_SET_CPUID2", 1)


def test_msr_indices_are_a_list(kernel: FakeKernel, kvm: Kvm) -> None:
    def fill(msrs: Any) -> int:
        msrs.nmsrs = 2
        msrs.indices[0], msrs.indices[1] = 0x10, 0xC000_0080
        return 0

    kernel.answers["KVM_GET_MSR_INDEX_LIST"] = fill
    assert kvm.get_msr_index_list() == [0x10, 0xC000_0080]


def test_msrs_are_read_until_the_kernel_stops(kernel: FakeKernel, vcpu: Vcpu) -> None:
    def fill(msrs: Any) -> int:
        assert [msrs.entries[i].index for i in range(msrs.nmsrs)] == [0x10, 0x11, 0x12]
        msrs.entries[0].data = 100
        msrs.entries[1].data = 2**64 - 1
        return 2

    kernel.answers["KVM_GET_MSRS"] = fill
    result = vcpu.try_.get_msrs([0x10, 0x11, 0x12])
    assert result.ret == 2
    assert result.value == {0x10: 100, 0x11: 2**64 - 1}
    kernel.answers["KVM_GET_MSRS"] = -errno.EFAULT
    assert vcpu.try_.get_msrs([0x10]).value is None


def test_msrs_are_set_in_order(kernel: FakeKernel, vcpu: Vcpu) -> None:
    seen: list[tuple[int, int]] = []

    def look(msrs: Any) -> int:
        seen.extend((msrs.entries[i].index, msrs.entries[i].data) for i in range(msrs.nmsrs))
        return len(seen)

    kernel.answers["KVM_SET_MSRS"] = look
    assert vcpu.set_msrs({0xC000_0081: 1, 0x10: 2**64 - 1}) == 2
    assert seen == [(0xC000_0081, 1), (0x10, 2**64 - 1)]


def test_registers_are_structs(kernel: FakeKernel, vcpu: Vcpu) -> None:
    def fill(regs: Any) -> int:
        regs.rip = 0xFFF0
        return 0

    kernel.answers["KVM_GET_REGS"] = fill
    regs = vcpu.get_regs()
    assert regs.rip == 0xFFF0
    regs.rax = 5
    vcpu.set_regs(regs)
    assert (kernel.name, kernel.argument["rip"], kernel.argument["rax"]) == (
        "KVM_SET_REGS",
        0xFFF0,
        5,
    )
    sregs = vcpu.get_sregs()
    sregs.cr3 = 0x1000
    vcpu.set_sregs(sregs)
    assert (kernel.name, kernel.argument["cr3"]) == ("KVM_SET_SREGS", 0x1000)


def test_other_vcpu_calls(kernel: FakeKernel, vcpu: Vcpu) -> None:
    vcpu.interrupt(0x21)
    assert (kernel.name, kernel.argument) == ("KVM_INTERRUPT", {"irq": 0x21})
    vcpu.set_guest_debug(3)
    assert (kernel.name, kernel.argument["control"]) == ("KVM_SET_GUEST_DEBUG", 3)
    vcpu.enable_cap(123, 9)
    assert (kernel.name, kernel.argument["args"][0]) == ("KVM_ENABLE_CAP", 9)

    def halted(state: Any) -> int:
        state.mp_state = 3
        return 0

    kernel.answers["KVM_GET_MP_STATE"] = halted
    assert vcpu.get_mp_state() == 3
    vcpu.set_mp_state(1)
    assert (kernel.name, kernel.argument["mp_state"]) == ("KVM_SET_MP_STATE", 1)


def test_pre_fault_says_how_far_it_came(kernel: FakeKernel, vcpu: Vcpu) -> None:
    def advance(arguments: Any) -> int:
        arguments.gpa += 0x2000
        arguments.size -= 0x2000
        return -errno.ENOENT

    kernel.answers["KVM_PRE_FAULT_MEMORY"] = advance
    result = vcpu.try_.pre_fault_memory(0x1_0000, 0x5000, 1)
    assert result.errno_name == "ENOENT"
    assert result.written_back == (0x1_2000, 0x3000)


def test_attributes_on_the_file_say_where_they_failed(kernel: FakeKernel) -> None:
    def refuse(arguments: Any) -> int:
        arguments.error_offset = 0x3000
        return -errno.EAGAIN

    kernel.answers["KVM_SET_MEMORY_ATTRIBUTES2"] = refuse
    with GuestMemfd(os.dup(0), 0x8000, 1) as memfd:
        result = memfd.try_.set_memory_attributes2(0x1000, 0x4000, 8)
        assert kernel.fd == memfd.fileno()
    assert result.errno_name == "EAGAIN"
    assert result.written_back == (0x3000,)


def test_device_attributes(kernel: FakeKernel, kvm: Kvm) -> None:
    device = Device(DEVICE_FD)
    kernel.answers["KVM_SET_DEVICE_ATTR"] = lambda attribute: (
        0 if ffi.cast("__u64 *", attribute.addr)[0] == 5 else -errno.EINVAL
    )
    device.set_attr(1, 2, (5).to_bytes(8, "little"))
    assert (kernel.fd, kernel.name) == (DEVICE_FD, "KVM_SET_DEVICE_ATTR")
    assert {key: kernel.argument[key] for key in ("flags", "group", "attr")} == {
        "flags": 0,
        "group": 1,
        "attr": 2,
    }
    kernel.answers["KVM_HAS_DEVICE_ATTR"] = -errno.ENXIO
    assert device.try_.has_attr(1, 2).errno_name == "ENXIO"
    disowned(device)

    def fill(attribute: Any) -> int:
        ffi.cast("__u64 *", attribute.addr)[0] = 0x1234
        return 0

    kernel.answers["KVM_GET_DEVICE_ATTR"] = fill
    assert get_device_attr_u64(kvm, 1, 0).value == 0x1234
    device = Device(DEVICE_FD)
    assert device.get_attr(1, 2, 8) == (0x1234).to_bytes(8, "little")
    disowned(device)


# ------------------------------------------------------------------ guest_memfd's system calls


def test_fallocate_is_the_system_call_itself() -> None:
    """On a memfd, which knows the same two modes."""
    fd = os.memfd_create("memfd", os.MFD_CLOEXEC)
    os.truncate(fd, 0x4000)
    with GuestMemfd(fd, 0x4000, 0) as memfd:
        os.pwrite(fd, b"x" * 0x4000, 0)
        memfd.punch_hole(0x1000, 0x1000)
        assert os.pread(fd, 0x4000, 0) == b"x" * 0x1000 + bytes(0x1000) + b"x" * 0x2000
        blocks = memfd.blocks
        memfd.allocate(0x1000, 0x1000)
        assert memfd.blocks > blocks
        assert memfd.try_.fallocate(1 << 30, 0, 0x1000).errno_name == "EOPNOTSUPP"
        assert memfd.try_.punch_hole(-1, 0x1000).errno_name == "EINVAL"


def test_mmap_goes_to_the_end_unless_told() -> None:
    fd = os.memfd_create("memfd", os.MFD_CLOEXEC)
    os.truncate(fd, 0x4000)
    with GuestMemfd(fd, 0x4000, 0) as memfd:
        with memfd.mmap() as whole, memfd.mmap(offset=0x1000) as rest, memfd.mmap(0x1000) as page:
            assert (whole.size, rest.size, page.size) == (0x4000, 0x3000, 0x1000)
        assert memfd.try_.mmap(offset=1).errno_name == "EINVAL"
        assert memfd.try_.mmap(offset=0x4000).errno_name == "EINVAL"  # no size is left
        assert memfd.try_.mmap(offset=0x5000).errno_name == "EINVAL"


# ------------------------------------------------------------------ the machine


def test_a_vcpu_that_never_leaves_is_an_error_and_not_a_hang(
    kernel: FakeKernel, vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck:
        running = True
        leave = VcpuThread.leave

        def __init__(self) -> None:
            self.vcpu = vcpu
            self._thread = self

        def join(self, timeout: float) -> None:
            assert 0 < timeout < 1

    monkeypatch.setattr(machine_module, "_LEAVE_SECONDS", 0.01)
    machine = machine_module.Machine(os.dup(0), MMAP_SIZE, VmType.DEFAULT)
    machine.own(vcpu)
    stuck = Stuck()
    machine.threads = [stuck]  # type: ignore[list-item]
    with pytest.raises(HarnessError, match="vCPU 3 did not leave KVM_RUN"):
        machine.close()
    assert not machine.closed
    assert not vcpu.closed
    stuck.running = False
    machine.close()
    assert machine.closed
    assert vcpu.closed


def test_a_payload_needs_the_vcpu_it_is_for(kernel: FakeKernel, kvm: Kvm) -> None:
    planned = builder.VmBuilder(kvm).memory(0, 1 << 20).payload("hello", vcpu=2).vcpus(2)
    with pytest.raises(HarnessError, match="payload hello is for vCPU 2, of 2 from 0"):
        planned.build()


# ------------------------------------------------------------------ lifetimes


def test_objects_close_with_their_last_reference_and_need_no_garbage_collector(
    kernel: FakeKernel, kvm: Kvm
) -> None:
    kernel.answers["KVM_CREATE_VM"] = os.dup(0)
    kernel.answers["KVM_CREATE_VCPU"] = mappable()
    kernel.answers["KVM_CREATE_GUEST_MEMFD"] = os.memfd_create("guest_memfd", 0)
    gc.disable()
    try:
        vm = kvm.create_vm()
        made: list[Any] = [vm, vm.create_vcpu(0), vm.create_guest_memfd(0x1000)]
        numbers = [thing.fileno() for thing in made]
        for thing in made:
            assert thing.try_ is not None
        del vm, thing
        made.clear()
        for number in numbers:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
    finally:
        gc.enable()
