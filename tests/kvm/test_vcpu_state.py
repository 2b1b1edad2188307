# SPDX-License-Identifier: MIT
"""What a vCPU holds beside its registers: read, set, read again, and seen by a guest."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from kvmharness import Kvm, Machine, Vcpu, Vm, VmBuilder
from kvmharness.kvm.cpuid import Cpuid
from kvmharness.kvm.debug import BreakOn, Breakpoint, DebugRegs, GuestDebug
from kvmharness.kvm.exits import DebugExit, HltExit, IoExit
from kvmharness.kvm.ffi import lib
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import Mode

CODE = 0x3_0000
DATA = 0x4_0000
XMM = struct.pack("<QQ", 0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF00)


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    with vm.create_vcpu(0) as made:
        yield made


@pytest.fixture
def code(vm_builder: Callable[..., VmBuilder]) -> Iterator[Callable[..., Machine]]:
    """A function that makes a vCPU about to run some machine code, by default at CPL3."""
    made: list[Machine] = []

    def build(code: bytes, mode: Mode = Mode.LONG_CPL3, **registers: int) -> Machine:
        machine = vm_builder().memory(0, 1 << 20, "anonymous").payload("hello", mode).build()
        made.append(machine)
        machine.write(CODE, code)
        table = machine.page_table or 0
        enter(machine.vcpus[0], mode, CODE, page_table=table, **registers)
        return machine

    yield build
    for machine in made:
        machine.close()


# ------------------------------------------------------------------ floating point

#: movups %xmm3, (%rdi); movups (%rsi), %xmm4; out %al, $0x80; hlt
STORE_AND_LOAD = b"\x0f\x11\x1f\x0f\x10\x26\xe6\x80\xf4"


@pytest.mark.scenario("kvm.vcpu.fpu")
def test_a_guest_has_the_xmm_registers_that_were_set(code: Callable[..., Machine]) -> None:
    machine = code(STORE_AND_LOAD, rdi=DATA, rsi=DATA + 16)
    machine.write(DATA + 16, XMM[::-1])
    vcpu = machine.vcpus[0]
    area = vcpu.get_xsave()
    area.xstate_bv |= 3  # KVM_SET_FPU leaves it, and what is not in use there is not loaded
    vcpu.set_xsave(area)
    fpu = vcpu.get_fpu()
    fpu.xmm[3] = XMM
    vcpu.set_fpu(fpu)
    assert isinstance(vcpu.run(5), IoExit)
    assert machine.read(DATA, 16) == XMM
    seen = vcpu.get_fpu()
    assert (seen.xmm[3], seen.xmm[4]) == (XMM, XMM[::-1])


@pytest.mark.scenario("kvm.vcpu.xsave")
@pytest.mark.requires_cap("KVM_CAP_XSAVE")
def test_a_guest_has_the_xsave_area_that_was_set(code: Callable[..., Machine]) -> None:
    machine = code(STORE_AND_LOAD, rdi=DATA, rsi=DATA)
    vcpu = machine.vcpus[0]
    area = vcpu.get_xsave()
    area.set_xmm(3, XMM)
    vcpu.set_xsave(area)
    assert isinstance(vcpu.run(5), IoExit)
    assert machine.read(DATA, 16) == XMM
    assert vcpu.get_xsave().xmm(4) == XMM
    assert vcpu.get_fpu().xmm[4] == XMM


@pytest.mark.scenario("kvm.vcpu.xsave2")
@pytest.mark.requires_cap("KVM_CAP_XSAVE2")
def test_the_whole_xsave_area_is_as_long_as_the_capability_says(vm: Vm, vcpu: Vcpu) -> None:
    size = vm.check_extension(lib.KVM_CAP_XSAVE2)
    whole = vcpu.get_xsave2()
    assert len(whole.area) == max(size, 4096)
    whole.set_xmm(5, XMM)
    vcpu.set_xsave(whole)
    assert vcpu.get_xsave2().xmm(5) == XMM


@pytest.mark.scenario("kvm.vcpu.xcrs")
@pytest.mark.requires_cap("KVM_CAP_XCRS")
def test_xcr0_has_the_x87_bit_always(vcpu: Vcpu) -> None:
    xcrs = vcpu.get_xcrs()
    assert (xcrs.nr_xcrs, xcrs.xcrs[0].xcr) == (1, 0)
    assert xcrs.xcrs[0].value & 1
    vcpu.set_xcrs(xcrs)
    xcrs.xcrs[0].value = 0
    assert vcpu.try_.set_xcrs(xcrs).errno_name == "EINVAL"


# ------------------------------------------------------------------ registers


@pytest.mark.scenario("kvm.vcpu.sregs2")
@pytest.mark.requires_cap("KVM_CAP_SREGS2")
def test_system_registers_are_the_same_in_both_forms(vcpu: Vcpu) -> None:
    old, new = vcpu.get_sregs(), vcpu.get_sregs2()
    assert (new.cs.base, new.cs.selector) == (old.cs.base, old.cs.selector) != (0, 0)
    new.cr3 = 0x5000
    new.gdt.base, new.gdt.limit = 0x6000, 0x27
    vcpu.set_sregs2(new)
    assert vcpu.get_sregs2() == new
    assert (vcpu.get_sregs().cr3, vcpu.get_sregs().gdt.limit) == (0x5000, 0x27)
    new.flags = 1 << 40
    assert vcpu.try_.set_sregs2(new).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vcpu.cpuid")
def test_cpuid_is_read_as_it_was_set(kvm: Kvm, vcpu: Vcpu) -> None:
    assert vcpu.get_cpuid2().nent == 0
    supported = kvm.get_supported_cpuid()
    vcpu.set_cpuid2(supported)
    seen = vcpu.get_cpuid2()

    def leaves(cpuid: Cpuid) -> set[tuple[int, int]]:
        return {(e.function, e.index) for e in cpuid}

    assert seen.nent > 10
    assert leaves(seen) <= leaves(supported)


@pytest.mark.scenario("kvm.vcpu.translate")
def test_an_address_is_translated_by_the_guests_tables(code: Callable[..., Machine]) -> None:
    machine = code(b"\xf4")
    vcpu = machine.vcpus[0]
    found = vcpu.translate(CODE + 5)
    assert (found.linear_address, found.gpa) == (CODE + 5, CODE + 5)
    assert vcpu.translate(1 << 46).gpa is None


@pytest.mark.scenario("kvm.vcpu.debugregs")
@pytest.mark.requires_cap("KVM_CAP_DEBUGREGS")
def test_debug_registers_are_kept(vcpu: Vcpu) -> None:
    before = vcpu.get_debugregs()
    assert (before.dr6, before.dr7) == (0xFFFF_0FF0, 0x400)
    wanted = DebugRegs(db=[1, 2, 3, 2**63], dr6=0xFFFF_0FF1, dr7=0x401)
    vcpu.set_debugregs(wanted)
    assert vcpu.get_debugregs() == wanted
    for field, value in (("flags", 1), ("dr6", 1 << 32), ("dr7", 1 << 32)):
        wrong = DebugRegs.from_bytes(bytes(wanted))
        setattr(wrong, field, value)
        assert vcpu.try_.set_debugregs(wrong).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vcpu.lapic")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
def test_a_local_apics_registers_are_kept(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu(0) as vcpu:
        lapic = vcpu.get_lapic()
        assert lapic.read(0x30) & 0xFF >= 0x10  # the version register: an integrated APIC
        lapic.write(0x80, 0x20)
        vcpu.set_lapic(lapic)
        assert vcpu.get_lapic().read(0x80) == 0x20
        assert vcpu.get_sregs().cr8 == 2  # the TPR's upper half


@pytest.mark.scenario("kvm.vcpu.lapic_none")
def test_without_a_chip_there_is_no_local_apic(vcpu: Vcpu) -> None:
    assert vcpu.try_.get_lapic().errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vcpu.nested")
def test_nested_state_needs_nested_virtualisation(vm: Vm, vcpu: Vcpu) -> None:
    result = vcpu.try_.get_nested_state()
    if not vm.check_extension(lib.KVM_CAP_NESTED_STATE):
        assert result.errno_name == "EINVAL"
        return
    state = result.unwrap()
    assert not state.flags & lib.KVM_STATE_NESTED_GUEST_MODE
    vcpu.set_nested_state(state)


@pytest.mark.scenario("kvm.vcpu.one_reg")
@pytest.mark.requires_cap("KVM_CAP_ONE_REG")
def test_an_msr_is_a_register_by_id(vcpu: Vcpu) -> None:
    sysenter_cs = 0x174
    msr = lib.KVM_REG_X86 | lib.KVM_REG_SIZE_U64 | 2 << 32 | sysenter_cs  # KVM_X86_REG_TYPE_MSR
    result = vcpu.try_.get_one_reg(msr)
    if result.errno_name == "EINVAL" and not vcpu.try_.get_reg_list().ok:
        pytest.skip("KVM_GET_ONE_REG knows no x86 registers before Linux 6.18")
    vcpu.set_one_reg(msr, (0x10).to_bytes(8, "little"))
    assert vcpu.get_msrs([sysenter_cs]) == {sysenter_cs: 0x10}
    assert vcpu.get_one_reg(msr) == (0x10).to_bytes(8, "little")
    wrong = lib.KVM_REG_X86 | lib.KVM_REG_SIZE_U32 | 2 << 32 | sysenter_cs
    assert vcpu.try_.get_one_reg(wrong).errno_name == "EINVAL"


# ------------------------------------------------------------------ debugging


@pytest.mark.scenario("kvm.vcpu.breakpoint")
@pytest.mark.requires_cap("KVM_CAP_SET_GUEST_DEBUG")
def test_a_hardware_breakpoint_stops_before_its_instruction(code: Callable[..., Machine]) -> None:
    """nop; nop; inc %rax; hlt - at CPL0, where an instruction emulated is one instruction."""
    machine = code(b"\x90\x90\x48\xff\xc0\xf4", Mode.LONG_CPL0, rax=41)
    vcpu = machine.vcpus[0]
    vcpu.set_guest_debug(GuestDebug.of(Breakpoint(CODE + 2)))
    exit_ = vcpu.run(5)
    assert isinstance(exit_, DebugExit)
    assert (exit_.pc, exit_.exception, exit_.dr6 & 0xF) == (CODE + 2, lib.DB_VECTOR, 1)
    assert vcpu.get_regs().rax == 41
    vcpu.set_guest_debug(0)
    assert isinstance(vcpu.run(5), HltExit)
    assert vcpu.get_regs().rax == 42


@pytest.mark.scenario("kvm.vcpu.watchpoint")
@pytest.mark.requires_cap("KVM_CAP_SET_GUEST_DEBUG")
def test_a_watchpoint_stops_after_the_store(code: Callable[..., Machine]) -> None:
    """mov %rax, (%rdi); out %al, $0x80 - at CPL3, where the processor itself runs it."""
    machine = code(b"\x48\x89\x07\xe6\x80", rax=0x55, rdi=DATA)
    vcpu = machine.vcpus[0]
    vcpu.set_guest_debug(GuestDebug.of(Breakpoint(DATA, BreakOn.WRITE, 8)))
    exit_ = vcpu.run(5)
    if isinstance(exit_, IoExit):
        pytest.skip("this host's KVM does not give a guest the host's watchpoints")
    assert isinstance(exit_, DebugExit)
    assert exit_.pc == CODE + 3
    assert machine.read(DATA, 1) == b"\x55"


# ------------------------------------------------------------------ clocks, machine checks, hints


@pytest.mark.scenario("kvm.vcpu.tsc_khz")
@pytest.mark.requires_cap("KVM_CAP_GET_TSC_KHZ")
def test_the_tscs_frequency(vcpu: Vcpu) -> None:
    khz = vcpu.get_tsc_khz()
    assert khz > 100_000
    vcpu.set_tsc_khz(khz)
    vcpu.set_tsc_khz(0)  # the host's
    assert vcpu.get_tsc_khz() == khz


@pytest.mark.scenario("kvm.vcpu.tsc_offset")
@pytest.mark.requires_cap("KVM_CAP_VCPU_ATTRIBUTES")
def test_the_tscs_offset_is_kept(vcpu: Vcpu) -> None:
    before = vcpu.get_tsc_offset()
    vcpu.set_tsc_offset(2**64 - 12345)
    if vcpu.get_tsc_offset() == before:
        pytest.skip("this host's KVM leaves the TSC's offset as it is")
    assert vcpu.get_tsc_offset() == 2**64 - 12345


@pytest.mark.scenario("kvm.vcpu.kvmclock_ctrl")
@pytest.mark.requires_cap("KVM_CAP_KVMCLOCK_CTRL")
def test_a_guest_without_kvmclock_is_not_told_of_a_pause(vcpu: Vcpu) -> None:
    assert vcpu.try_.kvmclock_ctrl().errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vcpu.machine_check")
@pytest.mark.requires_cap("KVM_CAP_MCE")
def test_machine_check_banks_are_set_up(kvm: Kvm, vm: Vm, vcpu: Vcpu) -> None:
    mcg_cap = 0x179
    banks = vm.check_extension(lib.KVM_CAP_MCE)
    vcpu.setup_mce(banks)
    assert vcpu.get_msrs([mcg_cap])[mcg_cap] & 0xFF == banks
    assert vcpu.try_.setup_mce(0).errno_name == "EINVAL"
    unknown = ~kvm.get_mce_cap_supported() & 0xFFFF_FF00
    assert vcpu.try_.setup_mce(unknown | 1).errno_name == "EINVAL"


@pytest.mark.scenario("kvm.vcpu.smi")
def test_an_smi_needs_system_management_mode(vm: Vm, vcpu: Vcpu) -> None:
    result = vcpu.try_.smi()
    assert result.ok == bool(vm.check_extension(lib.KVM_CAP_X86_SMM))


@pytest.mark.scenario("kvm.vcpu.tpr_access")
@pytest.mark.requires_cap("KVM_CAP_VAPIC")
def test_tpr_accesses_are_reported_on_demand(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu(0) as vcpu:
        assert vcpu.tpr_access_reporting(True).enabled == 1
        assert vcpu.tpr_access_reporting(False).enabled == 0
        vcpu.set_vapic_addr(0)


@pytest.mark.scenario("kvm.vcpu.stats")
@pytest.mark.requires_cap("KVM_CAP_BINARY_STATS_FD")
def test_exits_are_counted(code: Callable[..., Machine]) -> None:
    machine = code(b"\xe6\x80" * 5)
    vcpu = machine.vcpus[0]
    with vcpu.get_stats_fd() as stats:
        assert stats.id.endswith("/vcpu-0")
        names = [stat.name for stat in stats.descriptors]
        assert len(names) == len(set(names)) > 10
        before = stats.read()
        assert set(before) == set(names)
        for _ in range(5):
            assert isinstance(vcpu.run(5), IoExit)
        after = stats.read()
    exits = [values["exits"] for values in (before, after)]
    assert isinstance(exits[0], int)
    assert isinstance(exits[1], int)
    assert exits[1] - exits[0] >= 5
    assert isinstance(after["halt_wait_hist"], tuple)
