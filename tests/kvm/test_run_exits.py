# SPDX-License-Identifier: MIT
"""Each exit a default VM can be made to take, as the type it is decoded to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import Machine, RunTimeout, VmBuilder
from kvmharness.kvm.exits import (
    DebugExit,
    HltExit,
    HypercallExit,
    InternalErrorExit,
    IoExit,
    MmioExit,
    MsrExit,
    ShutdownExit,
)
from kvmharness.kvm.ffi import lib
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import ExitCase, Mode
from kvmharness.machine.running import PayloadRun, run_payload

MMIO_GPA = 0xD000_0000
MODES = ["long-cpl0", "long-cpl3"]
both_modes = pytest.mark.parametrize("mode", MODES)

#: In the range that KVM keeps for its own paravirtual MSRs: no hardware has one of these.
MSR = 0x4000_1002


@pytest.fixture
def exits(vm_builder: Callable[..., VmBuilder]) -> Callable[..., Machine]:
    """A function giving a machine about to cause `case` in `mode`, with the payload's arguments."""

    def build(case: ExitCase, mode: str, **arguments: int) -> Machine:
        builder = vm_builder().memory(0, 1 << 20, "anonymous")
        return builder.payload("exits", mode, case=case, **arguments).build()

    return build


def go_on(machine: Machine) -> PayloadRun:
    return run_payload(machine.vcpus[0], 5)


# ------------------------------------------------------------------ ports


@pytest.mark.scenario("run.exit.io_in")
@both_modes
def test_in_gets_what_the_vmm_answers(exits: Callable[..., Machine], mode: str) -> None:
    with exits(ExitCase.PIO_IN, mode, a0=0x777) as machine:
        run = machine.run()
        assert isinstance(run.exit, IoExit)
        assert not run.exit.is_out
        assert (run.exit.port, run.exit.size, run.exit.count) == (0x777, 4, 1)
        assert run.exit.data == b""
        machine.vcpus[0].complete_io(run.exit, bytes.fromhex("78563412"))
        after = go_on(machine)
        assert (after.status, after.words) == (0, [0x12345678])


@pytest.mark.scenario("run.exit.io_in_surplus")
def test_an_answer_longer_than_the_access_is_refused(exits: Callable[..., Machine]) -> None:
    with exits(ExitCase.PIO_IN, "long-cpl3", a0=0x777) as machine:
        run = machine.run()
        assert isinstance(run.exit, IoExit)
        with pytest.raises(ValueError, match="data has 4 bytes; 8 were given"):
            machine.vcpus[0].complete_io(run.exit, b"\1\2\3\4\5\6\7\x08")
        machine.vcpus[0].complete_io(run.exit, b"\1\2\3\4")
        assert go_on(machine).words == [0x04030201]


@pytest.mark.scenario("run.exit.io_string")
@both_modes
@pytest.mark.parametrize("size", [1, 7, 3000])
def test_a_string_out_arrives_whole(exits: Callable[..., Machine], mode: str, size: int) -> None:
    """REP OUTSB comes as one exit or as several, of whatever lengths KVM chooses."""
    text = bytes(0x20 + index % 0x50 for index in range(size))
    with exits(ExitCase.PIO_STRING, mode, a0=size, a1=0x2_0000) as machine:
        machine.write(0x2_0000, text)
        run = machine.run()
        assert run.status == 0
        assert run.console.encode() == text


# ------------------------------------------------------------------ MMIO


@pytest.mark.scenario("run.exit.mmio_read")
@both_modes
def test_a_load_outside_memory_gets_what_the_vmm_answers(
    exits: Callable[..., Machine], mode: str
) -> None:
    with exits(ExitCase.MMIO_READ, mode, a0=MMIO_GPA) as machine:
        run = machine.run()
        assert isinstance(run.exit, MmioExit)
        assert (run.exit.is_write, run.exit.gpa, run.exit.size) == (False, MMIO_GPA, 8)
        assert run.exit.data == b""
        machine.vcpus[0].complete_io(run.exit, (0x1122334455667788).to_bytes(8, "little"))
        after = go_on(machine)
        assert (after.status, after.words) == (0, [0x1122334455667788])


@pytest.mark.scenario("run.exit.mmio_write")
@both_modes
def test_a_store_outside_memory_brings_its_data(exits: Callable[..., Machine], mode: str) -> None:
    value = 0x8877665544332211
    with exits(ExitCase.MMIO_WRITE, mode, a0=MMIO_GPA + 16, a1=value) as machine:
        run = machine.run()
        assert isinstance(run.exit, MmioExit)
        assert (run.exit.is_write, run.exit.gpa, run.exit.size) == (True, MMIO_GPA + 16, 8)
        assert run.exit.data == value.to_bytes(8, "little")
        assert go_on(machine).status == 0


# ------------------------------------------------------------------ ends


@pytest.mark.scenario("run.exit.hlt")
def test_halt(exits: Callable[..., Machine]) -> None:
    with exits(ExitCase.HLT, "long-cpl0") as machine:
        run = machine.run()
        assert isinstance(run.exit, HltExit)
        assert run.status is None
        assert go_on(machine).status == 0  # it goes on behind the HLT


@pytest.mark.scenario("run.exit.shutdown")
@both_modes
def test_a_triple_fault(exits: Callable[..., Machine], mode: str) -> None:
    with exits(ExitCase.SHUTDOWN, mode) as machine:
        assert isinstance(machine.run().exit, ShutdownExit)


@pytest.mark.scenario("run.exit.privileged")
@pytest.mark.parametrize(
    "case", [ExitCase.HLT, ExitCase.RDMSR, ExitCase.WRMSR], ids=["hlt", "rdmsr", "wrmsr"]
)
def test_privileged_instructions_at_cpl3_end_in_a_triple_fault(
    exits: Callable[..., Machine], case: ExitCase
) -> None:
    with exits(case, "long-cpl3", a0=0x10) as machine:
        assert isinstance(machine.run().exit, ShutdownExit)


@pytest.mark.scenario("run.exit.internal_error")
@pytest.mark.parametrize("mode", [str(mode) for mode in Mode])
def test_code_outside_memory_is_an_internal_error(
    vm_builder: Callable[..., VmBuilder], mode: str
) -> None:
    builder = vm_builder().memory(0, 0x8000, "anonymous").memory(0x1_0000, 1 << 20, "anonymous")
    with builder.payload("hello").build() as machine:
        enter(machine.vcpus[0], Mode(mode), 0x9000, page_table=machine.page_table or 0)
        exit_ = machine.vcpus[0].run(5)
        if mode == Mode.LONG_CPL3 and isinstance(exit_, ShutdownExit):
            return  # KVM gives unprivileged code a #UD instead (handle_emulation_failure)
        assert isinstance(exit_, InternalErrorExit)
        assert exit_.suberror == lib.KVM_INTERNAL_ERROR_EMULATION


@pytest.mark.scenario("run.exit.cpuid")
@both_modes
def test_cpuid_is_what_was_set_and_no_exit(exits: Callable[..., Machine], mode: str) -> None:
    with exits(ExitCase.CPUID, mode, a0=0) as machine:
        run = machine.run()
        assert run.status == 0
        vendor = b"".join(run.words[index].to_bytes(4, "little") for index in (1, 3, 2))
        assert vendor.decode() in Path("/proc/cpuinfo").read_text()


# ------------------------------------------------------------------ MSRs


def hand_over(machine: Machine, *reasons: int) -> None:
    machine.enable_cap(lib.KVM_CAP_X86_USER_SPACE_MSR, sum(reasons))


filtered = [
    pytest.mark.requires_cap("KVM_CAP_X86_USER_SPACE_MSR"),
    pytest.mark.requires_cap("KVM_CAP_X86_MSR_FILTER"),
]


def deny(machine: Machine, first: int, count: int) -> None:
    hand_over(machine, lib.KVM_MSR_EXIT_REASON_FILTER)
    access = lib.KVM_MSR_FILTER_READ | lib.KVM_MSR_FILTER_WRITE
    machine.set_msr_filter([(first, count, access)])


@pytest.mark.scenario("run.exit.rdmsr")
@filtered[0]
@filtered[1]
def test_rdmsr_gets_what_the_vmm_answers(exits: Callable[..., Machine]) -> None:
    with exits(ExitCase.RDMSR, "long-cpl0", a0=MSR) as machine:
        deny(machine, MSR - 2, 16)
        run = machine.run()
        assert isinstance(run.exit, MsrExit)
        assert (run.exit.is_write, run.exit.index) == (False, MSR)
        assert run.exit.why == lib.KVM_MSR_EXIT_REASON_FILTER
        machine.vcpus[0].complete_msr(0xABCD_EF01_2345_6789)
        after = go_on(machine)
        assert (after.status, after.words) == (0, [0xABCD_EF01_2345_6789])


@pytest.mark.scenario("run.exit.wrmsr")
@filtered[0]
@filtered[1]
def test_wrmsr_brings_its_value(exits: Callable[..., Machine]) -> None:
    with exits(ExitCase.WRMSR, "long-cpl0", a0=MSR, a1=0x1234_5678_9ABC) as machine:
        deny(machine, MSR, 1)
        run = machine.run()
        assert isinstance(run.exit, MsrExit)
        assert (run.exit.is_write, run.exit.index, run.exit.data) == (True, MSR, 0x1234_5678_9ABC)
        machine.vcpus[0].complete_msr()
        assert go_on(machine).status == 0


@pytest.mark.scenario("run.exit.msr_refused")
@filtered[0]
@filtered[1]
@pytest.mark.parametrize("case", [ExitCase.RDMSR, ExitCase.WRMSR], ids=["rdmsr", "wrmsr"])
def test_an_msr_refused_by_the_vmm_is_a_fault(
    exits: Callable[..., Machine], case: ExitCase
) -> None:
    with exits(case, "long-cpl0", a0=MSR) as machine:
        deny(machine, MSR, 1)
        assert isinstance(machine.run().exit, MsrExit)
        machine.vcpus[0].complete_msr(error=True)
        assert isinstance(go_on(machine).exit, ShutdownExit)  # #GP without an IDT


@pytest.mark.scenario("run.exit.msr_unknown")
@filtered[0]
def test_an_msr_kvm_does_not_know_is_handed_over(exits: Callable[..., Machine]) -> None:
    index = 0xDEAD_0000
    with exits(ExitCase.RDMSR, "long-cpl0", a0=index) as machine:
        hand_over(machine, lib.KVM_MSR_EXIT_REASON_UNKNOWN, lib.KVM_MSR_EXIT_REASON_INVAL)
        run = machine.run()
        assert isinstance(run.exit, MsrExit)
        assert run.exit.index == index
        assert run.exit.why in (lib.KVM_MSR_EXIT_REASON_UNKNOWN, lib.KVM_MSR_EXIT_REASON_INVAL)
        machine.vcpus[0].complete_msr(7)
        assert go_on(machine).words == [7]


# ------------------------------------------------------------------ debugging, hypercalls


@pytest.mark.scenario("run.exit.single_step")
@pytest.mark.requires_cap("KVM_CAP_SET_GUEST_DEBUG")
def test_single_steps_follow_the_code(vm_builder: Callable[..., VmBuilder]) -> None:
    """nop; nop; inc %rax; hlt - at CPL0, in memory of its own."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").payload("hello", "long-cpl0")
    with builder.build() as machine:
        machine.write(0x3_0000, b"\x90\x90\x48\xff\xc0\xf4")
        vcpu = machine.vcpus[0]
        enter(vcpu, Mode.LONG_CPL0, 0x3_0000, page_table=machine.page_table or 0, rax=41)
        vcpu.set_guest_debug(lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP)
        for pc in (0x3_0001, 0x3_0002, 0x3_0005):
            exit_ = vcpu.run(5)
            assert isinstance(exit_, DebugExit)
            assert (exit_.pc, exit_.exception) == (pc, 1)  # #DB
            assert exit_.dr6 & 1 << 14  # BS: a single step
        assert vcpu.get_regs().rax == 42
        vcpu.set_guest_debug(0)
        assert isinstance(vcpu.run(5), HltExit)


@pytest.mark.scenario("run.exit.breakpoint")
@both_modes
def test_int3_without_a_debugger_is_the_guests_problem(
    exits: Callable[..., Machine], mode: str
) -> None:
    """#BP without an IDT: a triple fault, or an emulator that knows no INT3 in long mode."""
    with exits(ExitCase.INT3, mode) as machine:
        assert isinstance(machine.run().exit, ShutdownExit | InternalErrorExit)


HC_MAP_GPA_RANGE = 12


@pytest.mark.scenario("run.exit.hypercall")
@pytest.mark.requires_cap("KVM_CAP_EXIT_HYPERCALL", 1 << HC_MAP_GPA_RANGE)
@pytest.mark.parametrize("case", [ExitCase.VMCALL, ExitCase.VMMCALL], ids=["vmcall", "vmmcall"])
def test_a_hypercall_is_handed_over_with_its_arguments(
    exits: Callable[..., Machine], case: ExitCase
) -> None:
    """KVM_HC_MAP_GPA_RANGE(gpa, pages, attributes), forwarded by KVM_CAP_EXIT_HYPERCALL.

    KVM replaces the other vendor's instruction by its own as the guest comes to it.
    """
    arguments = (0x10_0000, 2, 1 << 4)
    with exits(
        case, "long-cpl0", a0=HC_MAP_GPA_RANGE, a1=arguments[0], a2=arguments[1], a3=arguments[2]
    ) as machine:
        machine.enable_cap(lib.KVM_CAP_EXIT_HYPERCALL, 1 << HC_MAP_GPA_RANGE)
        try:
            run = machine.run(0.5)
        except RunTimeout:
            pytest.skip(f"{case.name} at CPL0 never comes back from KVM_RUN on this host")
        assert isinstance(run.exit, HypercallExit)
        assert run.exit.number == HC_MAP_GPA_RANGE
        assert run.exit.arguments[:3] == arguments
        machine.vcpus[0].complete_hypercall(0)
        after = go_on(machine)
        assert (after.status, after.words) == (0, [0])


@pytest.mark.scenario("run.exit.hypercall_unprivileged")
@pytest.mark.parametrize("case", [ExitCase.VMCALL, ExitCase.VMMCALL], ids=["vmcall", "vmmcall"])
def test_a_hypercall_at_cpl3_is_refused_or_faults(
    exits: Callable[..., Machine], case: ExitCase
) -> None:
    """KVM answers -KVM_EPERM (-1) to CPL3; the other vendor's instruction may stay a #UD."""
    with exits(case, "long-cpl3", a0=1) as machine:
        try:
            run = machine.run(0.5)
        except RunTimeout:
            pytest.skip(f"{case.name} at CPL3 never comes back from KVM_RUN on this host")
        if run.status is None:
            assert isinstance(run.exit, ShutdownExit | InternalErrorExit)
        else:
            assert (run.status, run.words) == (0, [2**64 - 1])
