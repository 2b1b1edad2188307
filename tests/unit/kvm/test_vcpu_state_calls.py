# SPDX-License-Identifier: MIT
"""A vCPU's state beyond its registers: which ioctl each call makes, with what, on a fake one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm.debug import BreakOn, Breakpoint, DebugRegs, GuestDebug, GuestDebugFlag
from kvmharness.kvm.events import VcpuEvents
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fpu import Fpu, Xcrs, Xsave
from kvmharness.kvm.lapic import Lapic
from kvmharness.kvm.mce import MachineCheck
from kvmharness.kvm.nested import NestedState
from kvmharness.kvm.registers import Sregs2, Translation
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm

from .fake_kernel import FakeKernel, mappable

CALLS: dict[str, tuple[Callable[[Vcpu], object], str, Any]] = {
    "get_fpu": (lambda vcpu: vcpu.get_fpu(), "KVM_GET_FPU", {"mxcsr": 0}),
    "set_fpu": (lambda vcpu: vcpu.set_fpu(Fpu(mxcsr=0x1F80)), "KVM_SET_FPU", {"mxcsr": 0x1F80}),
    "get_xcrs": (lambda vcpu: vcpu.get_xcrs(), "KVM_GET_XCRS", {"nr_xcrs": 0}),
    "set_xcrs": (lambda vcpu: vcpu.set_xcrs(Xcrs(nr_xcrs=1)), "KVM_SET_XCRS", {"nr_xcrs": 1}),
    "get_lapic": (lambda vcpu: vcpu.get_lapic(), "KVM_GET_LAPIC", {"regs": ""}),
    "get_vcpu_events": (lambda vcpu: vcpu.get_vcpu_events(), "KVM_GET_VCPU_EVENTS", {"flags": 0}),
    "set_vcpu_events": (
        lambda vcpu: vcpu.set_vcpu_events(VcpuEvents(sipi_vector=9, flags=2)),
        "KVM_SET_VCPU_EVENTS",
        {"sipi_vector": 9, "flags": 2},
    ),
    "get_debugregs": (lambda vcpu: vcpu.get_debugregs(), "KVM_GET_DEBUGREGS", {"dr7": 0}),
    "set_debugregs": (
        lambda vcpu: vcpu.set_debugregs(DebugRegs(dr7=0x400)),
        "KVM_SET_DEBUGREGS",
        {"dr7": 0x400},
    ),
    "get_sregs2": (lambda vcpu: vcpu.get_sregs2(), "KVM_GET_SREGS2", {"flags": 0}),
    "set_sregs2": (
        lambda vcpu: vcpu.set_sregs2(Sregs2(flags=1, pdptrs=[1, 2, 3, 4])),
        "KVM_SET_SREGS2",
        {"flags": 1, "pdptrs": [1, 2, 3, 4]},
    ),
    "get_cpuid2": (lambda vcpu: vcpu.get_cpuid2(), "KVM_GET_CPUID2", {"nent": 256}),
    "hv": (lambda v: v.get_supported_hv_cpuid(), "KVM_GET_SUPPORTED_HV_CPUID", {"nent": 256}),
    "translate": (
        lambda vcpu: vcpu.translate(2**64 - 1),
        "KVM_TRANSLATE",
        {"linear_address": 2**64 - 1},
    ),
    "nmi": (lambda vcpu: vcpu.nmi(), "KVM_NMI", None),
    "smi": (lambda vcpu: vcpu.smi(), "KVM_SMI", None),
    "kvmclock_ctrl": (lambda vcpu: vcpu.kvmclock_ctrl(), "KVM_KVMCLOCK_CTRL", None),
    "get_tsc_khz": (lambda vcpu: vcpu.get_tsc_khz(), "KVM_GET_TSC_KHZ", None),
    "set_tsc_khz": (lambda vcpu: vcpu.set_tsc_khz(7), "KVM_SET_TSC_KHZ", 7),
    "tpr": (
        lambda vcpu: vcpu.tpr_access_reporting(True),
        "KVM_TPR_ACCESS_REPORTING",
        {"enabled": 1},
    ),
    "vapic": (
        lambda vcpu: vcpu.set_vapic_addr(0x5000),
        "KVM_SET_VAPIC_ADDR",
        {"vapic_addr": 0x5000},
    ),
    "set_mce": (
        lambda vcpu: vcpu.set_mce(MachineCheck(bank=2, status=2**63)),
        "KVM_X86_SET_MCE",
        {"bank": 2, "status": 2**63},
    ),
    "guest debug off": (
        lambda vcpu: vcpu.set_guest_debug(0),
        "KVM_SET_GUEST_DEBUG",
        {"control": 0},
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_calls(kernel: FakeKernel, vcpu: Vcpu, method: str) -> None:
    call, name, wanted = CALLS[method]
    call(vcpu)
    seen = kernel.argument
    if isinstance(wanted, dict):
        seen = {key: seen[key] for key in wanted}
    assert (kernel.fd, kernel.name, seen) == (vcpu.fileno(), name, wanted)
    kernel.answers[name] = -errno.EPERM
    with pytest.raises(KvmError, match=f"{name} failed: EPERM"):
        call(vcpu)


@pytest.mark.parametrize(
    "name",
    ["fpu", "xsave", "xcrs", "lapic", "vcpu_events", "debugregs", "sregs2", "nested_state"],
)
def test_a_struct_of_another_kind_is_refused(vcpu: Vcpu, name: str) -> None:
    with pytest.raises(TypeError, match="is required, not MachineCheck"):
        getattr(vcpu, f"set_{name}")(MachineCheck())


# ------------------------------------------------------------------ XSAVE


def fill_area(size: int) -> Callable[[Any], int]:
    def fill(area: Any) -> int:
        ffi.memmove(area, bytes(range(256)) * (size // 256), size)
        return 0

    return fill


def test_xsave_is_a_page_and_xsave2_what_the_vm_says(kernel: FakeKernel, vm: Vm) -> None:
    kernel.answers |= {
        "KVM_CHECK_EXTENSION": 11008,
        "KVM_CREATE_VCPU": mappable(),
        "KVM_GET_XSAVE": fill_area(4096),
        "KVM_GET_XSAVE2": fill_area(11008),
    }
    with vm.create_vcpu(0) as vcpu:
        assert len(vcpu.get_xsave().area) == 4096
        whole = vcpu.get_xsave2()
        assert bytes(whole.area) == bytes(range(256)) * 43
        seen: list[bytes] = []

        def look(area: Any) -> int:
            seen.append(bytes(ffi.buffer(area, 11008)))
            return 0

        kernel.answers["KVM_SET_XSAVE"] = look
        vcpu.set_xsave(whole)
        assert seen == [bytes(whole.area)]
        kernel.answers["KVM_GET_XSAVE2"] = -errno.EFAULT
        assert vcpu.try_.get_xsave2(4096).value is None


def test_a_kernel_without_xsave2_has_a_page(kernel: FakeKernel, vm: Vm) -> None:
    kernel.answers["KVM_CREATE_VCPU"] = mappable()
    with vm.create_vcpu(0) as vcpu:
        assert vcpu.xsave_size == 4096


def test_an_xmm_register_in_the_area() -> None:
    state = Xsave(bytearray(4096))
    state.set_xmm(1, b"0123456789abcdef")
    assert state.area[176:192] == b"0123456789abcdef"
    assert state.xmm(1) == b"0123456789abcdef"
    assert state.xstate_bv == 2
    with pytest.raises(ValueError, match="16 bytes are required, not 4"):
        state.set_xmm(0, b"four")
    for index in (-1, 16):
        with pytest.raises(ValueError, match="XMM registers 0 to 15"):
            state.xmm(index)


# ------------------------------------------------------------------ debugging


def test_breakpoints_are_debug_registers(kernel: FakeKernel, vcpu: Vcpu) -> None:
    vcpu.set_guest_debug(
        GuestDebug.of(
            Breakpoint(0x1000),
            Breakpoint(0x2000, BreakOn.WRITE, 8),
            Breakpoint(0x3000, BreakOn.ACCESS, 4),
            Breakpoint(0x4000, BreakOn.WRITE, 2),
            single_step=True,
        )
    )
    assert kernel.argument["control"] == (
        lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP | lib.KVM_GUESTDBG_USE_HW_BP
    )
    registers = kernel.argument["arch"]["debugreg"]
    assert registers[:4] == [0x1000, 0x2000, 0x3000, 0x4000]
    # LEN and R/W from bit 16 on, four bits each; the G bits below (Intel SDM 3B, figure 18-1).
    assert registers[7] == 0b0101_1111_1001_0000 << 16 | 0b1010_1010
    with pytest.raises(ValueError, match="x86 has four breakpoints, not 5"):
        GuestDebug.of(*[Breakpoint(0)] * 5)
    with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes, not 3"):
        Breakpoint(0, BreakOn.WRITE, 3).dr7(0)


def test_guest_debug_by_numbers(kernel: FakeKernel, vcpu: Vcpu) -> None:
    vcpu.set_guest_debug(GuestDebugFlag.ENABLE | GuestDebugFlag.USE_HW_BP, [1, 2, 3])
    assert kernel.argument["control"] == 0x20001
    assert kernel.argument["arch"]["debugreg"] == [1, 2, 3, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="debugreg"):
        vcpu.set_guest_debug(1, [0] * 9)
    with pytest.raises(TypeError, match="a GuestDebug is required, not str"):
        vcpu.set_guest_debug("on")  # type: ignore[arg-type]


def test_the_flags_are_the_kernels() -> None:
    declared = {
        name.removeprefix("KVM_GUESTDBG_"): getattr(lib, name)
        for name in dir(lib)
        if name.startswith("KVM_GUESTDBG_")
    }
    assert {name: int(flag) for name, flag in GuestDebugFlag.__members__.items()} == declared


# ------------------------------------------------------------------ the rest


def test_an_apics_registers_by_offset(kernel: FakeKernel, vcpu: Vcpu) -> None:
    lapic = Lapic()
    lapic.write(0x320, 0x1_00EC)
    assert lapic.regs[0x320:0x324] == b"\xec\x00\x01\x00"
    assert lapic.read(0x320) == 0x1_00EC
    for offset in (-1, 1021):
        with pytest.raises(ValueError, match="lies outside the APIC's registers"):
            lapic.read(offset)
        with pytest.raises(ValueError, match="lies outside the APIC's registers"):
            lapic.write(offset, 0)
    seen: list[bytes] = []

    def look(state: Any) -> int:
        seen.append(bytes(ffi.buffer(state)))
        return 0

    kernel.answers["KVM_SET_LAPIC"] = look
    vcpu.set_lapic(lapic)
    assert seen == [bytes(lapic)]


def test_nested_state_is_asked_for_by_its_size(kernel: FakeKernel, vcpu: Vcpu) -> None:
    sizes: list[int] = []

    def fill(state: Any) -> int:
        sizes.append(int(state.size))
        if state.size < 128 + 4096:
            state.size = 128 + 4096
            return -errno.E2BIG
        state.flags, state.format, state.hdr.svm.vmcb_pa = 1, 1, 0x5000
        ffi.memmove(ffi.cast("char *", state) + 128, b"v" * 4096, 4096)
        return 0

    kernel.answers["KVM_GET_NESTED_STATE"] = fill
    state = vcpu.get_nested_state()
    assert sizes == [128, 128 + 4096]
    assert (state.flags, state.format, state.data) == (1, 1, b"v" * 4096)
    assert state.header == (0x5000).to_bytes(8, "little") + bytes(112)
    seen: list[bytes] = []

    def look(argument: Any) -> int:
        seen.append(bytes(ffi.buffer(argument, argument.size)))
        return 0

    kernel.answers["KVM_SET_NESTED_STATE"] = look
    vcpu.set_nested_state(state)
    assert seen == [
        b"\x01\x00\x01\x00" + (128 + 4096).to_bytes(4, "little") + state.header + state.data
    ]


def test_a_nested_state_that_stays_too_big_is_the_kernels_answer(
    kernel: FakeKernel, vcpu: Vcpu
) -> None:
    kernel.answers["KVM_GET_NESTED_STATE"] = -errno.E2BIG
    assert vcpu.try_.get_nested_state().errno_name == "E2BIG"
    with pytest.raises(ValueError, match="header has 120 bytes; 121 were given"):
        vcpu.set_nested_state(NestedState(header=bytes(121)))
    with pytest.raises(OverflowError):
        vcpu.set_nested_state(NestedState(flags=1 << 16))


@pytest.mark.parametrize(("valid", "gpa"), [(1, 0x5000), (0, None)])
def test_a_translation(kernel: FakeKernel, vcpu: Vcpu, valid: int, gpa: int | None) -> None:
    def walk(where: Any) -> int:
        where.physical_address, where.valid, where.writeable = 0x5000, valid, 1
        return 0

    kernel.answers["KVM_TRANSLATE"] = walk
    assert vcpu.translate(0x1234) == Translation(0x1234, gpa, True, False)


def test_one_register_has_the_size_in_its_id(kernel: FakeKernel, vcpu: Vcpu) -> None:
    register = lib.KVM_REG_X86 | lib.KVM_REG_SIZE_U128 | 5

    def fill(one: Any) -> int:
        assert one.id == register
        ffi.memmove(ffi.cast("char *", one.addr), b"0123456789abcdef", 16)
        return 0

    kernel.answers["KVM_GET_ONE_REG"] = fill
    assert vcpu.get_one_reg(register) == b"0123456789abcdef"
    seen: list[bytes] = []

    def look(one: Any) -> int:
        seen.append(bytes(ffi.buffer(ffi.cast("char *", one.addr), 16)))
        return 0

    kernel.answers["KVM_SET_ONE_REG"] = look
    vcpu.set_one_reg(register, b"fedcba9876543210")
    assert seen == [b"fedcba9876543210"]
    with pytest.raises(ValueError, match="has 16 bytes, not 8"):
        vcpu.set_one_reg(register, bytes(8))


def test_the_list_of_registers_is_asked_for_by_its_size(kernel: FakeKernel, vcpu: Vcpu) -> None:
    def fill(registers: Any) -> int:
        room, registers.n = registers.n, 2
        if room < 2:
            return -errno.E2BIG
        registers.reg[0], registers.reg[1] = 5, 2**63
        return 0

    kernel.answers["KVM_GET_REG_LIST"] = fill
    assert vcpu.get_reg_list() == [5, 2**63]
    kernel.answers["KVM_GET_REG_LIST"] = 0
    assert vcpu.get_reg_list() == []


def test_numbers_behind_a_pointer(kernel: FakeKernel, vcpu: Vcpu) -> None:
    seen: list[int] = []

    def setup(value: Any) -> int:
        seen.append(int(value[0]))
        return 0

    kernel.answers["KVM_X86_SETUP_MCE"] = setup
    vcpu.setup_mce(0x100_000A)
    assert seen == [0x100_000A]

    def offset(attribute: Any) -> int:
        assert (attribute.group, attribute.attr) == (0, 0)
        seen.append(int(ffi.cast("__u64 *", attribute.addr)[0]))
        ffi.cast("__u64 *", attribute.addr)[0] = 2**64 - 5
        return 0

    kernel.answers["KVM_GET_DEVICE_ATTR"] = kernel.answers["KVM_SET_DEVICE_ATTR"] = offset
    vcpu.set_tsc_offset(2**64 - 1)
    assert seen[1] == 2**64 - 1
    assert vcpu.get_tsc_offset() == 2**64 - 5


# ------------------------------------------------------------------ answers to exits


def test_answers_are_written_to_the_run_page(vcpu: Vcpu) -> None:
    run = vcpu.kvm_run.pointer
    vcpu.complete_hyperv(2**64 - 1)
    assert run.hyperv.u.hcall.result == 2**64 - 1
    vcpu.complete_xen(-1)
    assert run.xen.u.hcall.result == 2**64 - 1
    vcpu.complete_tdx(2**63, 1, 2)
    assert (run.tdx.get_tdvmcall_info.ret, run.tdx.get_tdvmcall_info.leaf) == (2**63, 1)
    assert run.tdx.get_tdvmcall_info.r11 == 2
    vcpu.complete_req_certs(errno.ENOSPC, 5)
    assert (run.snp_req_certs.ret, run.snp_req_certs.npages) == (errno.ENOSPC, 5)
    vcpu.complete_req_certs()
    assert (run.snp_req_certs.ret, run.snp_req_certs.npages) == (0, 5)
    vcpu.request_interrupt_window()
    assert run.request_interrupt_window == 1
    vcpu.request_interrupt_window(False)
    assert run.request_interrupt_window == 0
    with pytest.raises(ValueError, match="values: at most 5, not 6"):
        vcpu.complete_tdx(0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "answer",
    [
        lambda vcpu: vcpu.complete_hyperv(0),
        lambda vcpu: vcpu.complete_xen(0),
        lambda vcpu: vcpu.complete_tdx(0),
        lambda vcpu: vcpu.complete_req_certs(),
        lambda vcpu: vcpu.request_interrupt_window(),
    ],
)
def test_a_closed_vcpu_takes_no_answer(vcpu: Vcpu, answer: Callable[[Vcpu], None]) -> None:
    vcpu.close()
    with pytest.raises(HarnessError, match="is closed"):
        answer(vcpu)
