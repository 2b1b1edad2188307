# SPDX-License-Identifier: MIT
"""Own code in each processor mode: entered where it was put, with segments that it can load again.

The instructions are written out; each one's assembly is beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from kvmharness import HarnessError, Machine, VmBuilder
from kvmharness.kvm.exits import HltExit, ShutdownExit
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.irqchip import Irqchip
from kvmharness.machine.payload import ExitCase

DX_IS_CONSOLE = bytes.fromhex("66 ba f8 03")  # mov dx, 0x3f8 (in 16-bit code: mov edx, 0x..03f8)
HLT = b"\xf4"
FAULT = b"\x0f\x0b"  # ud2

#: Far return to `ok` with the code segment loaded from the GDT, then all data segments, then a
#: word pushed and popped. Position-independent: rbx holds where it lies.
PROTECTED = bytes.fromhex(
    "6a 10"  # push 0x10
    "8d 43 0a"  # lea eax, [ebx + 0x0a]
    "50"  # push eax
    "cb"  # retf
    "0f 0b"  # ud2 (skipped)
    "90"  # nop
    "66 b8 18 00"  # 0x0a: mov ax, 0x18
    "8e d8 8e c0 8e e0 8e e8 8e d0"  # mov ds, es, fs, gs, ss, ax
    "6a 50 58"  # push 'P'; pop eax
    "66 ba f8 03 ee"  # mov dx, 0x3f8; out dx, al
    "f4"
)
LONG = bytes.fromhex(
    "6a 10"  # push 0x10
    "48 8d 43 0c"  # lea rax, [rbx + 0x0c]
    "50"  # push rax
    "48 cb"  # retfq
    "0f 0b 90"  # ud2; nop (skipped)
    "66 b8 18 00"  # 0x0c: mov ax, 0x18
    "8e d8 8e c0 8e e0 8e e8 8e d0"
    "6a 4c 58"  # push 'L'; pop rax
    "66 ba f8 03 ee"
    "f4"
)
LONG_CPL3 = bytes.fromhex(
    "6a 33"  # push 0x33
    "48 8d 43 0c"
    "50"
    "48 cb"
    "0f 0b 90"
    "66 b8 2b 00"  # 0x0c: mov ax, 0x2b
    "8e d8 8e c0 8e e0 8e e8 8e d0"
    "6a 43 58"  # push 'C'; pop rax
    "66 ba f8 03 ee"
    "0f 0b"  # ud2: HLT would fault as well
)
#: mov ax, cs; add al, 'A'; mov dx, 0x3f8; out dx, al; add byte [0x7000], 1; hlt
REAL = bytes.fromhex("8c c8 04 41 ba f8 03 ee 80 06 00 70 01 f4")

Build = Callable[..., Machine]


@pytest.fixture
def build(vm_builder: Callable[..., VmBuilder]) -> Build:
    """A function that builds a VM of 4 MiB with one piece of code to run."""

    def build(code: bytes, mode: str, gpa: int = 0x1000, **registers: int) -> Machine:
        builder = vm_builder().memory(0, 4 << 20, "anonymous")
        return builder.code(code, mode, gpa=gpa, rbx=gpa, **registers).build()

    return build


@pytest.mark.scenario("run.code.real")
@pytest.mark.parametrize(("gpa", "cs"), [(0x1000, 0), (0xFFF0, 0), (0x1_0010, 0x1001)])
def test_real_mode(build: Build, gpa: int, cs: int) -> None:
    with build(REAL, "real", gpa) as machine:
        run = machine.run()
        assert isinstance(run.exit, HltExit)
        assert ord(run.console) == (cs + ord("A")) & 0xFF
        assert machine.read(0x7000, 1) == b"\1"  # DS is 0, wherever CS is


@pytest.mark.scenario("run.code.protected")
@pytest.mark.parametrize("gpa", [0x1000, 0x30_0000])
def test_protected_mode(build: Build, gpa: int) -> None:
    with build(PROTECTED, "protected", gpa) as machine:
        run = machine.run()
        assert (type(run.exit), run.console) == (HltExit, "P")


@pytest.mark.scenario("run.code.long")
@pytest.mark.parametrize("gpa", [0x1000, 0x30_0000])
def test_long_mode(build: Build, gpa: int) -> None:
    with build(LONG, "long", gpa) as machine:
        run = machine.run()
        assert (type(run.exit), run.console) == (HltExit, "L")


@pytest.mark.scenario("run.code.long_cpl3")
def test_long_mode_at_cpl3(build: Build) -> None:
    with build(LONG_CPL3, "long-cpl3", 0x30_0000) as machine:
        run = machine.run()
        assert (type(run.exit), run.console) == (ShutdownExit, "C")


@pytest.mark.scenario("run.code.fault")
@pytest.mark.parametrize("mode", ["protected", "long", "long-cpl3"])
def test_a_fault_ends_the_guest(build: Build, mode: str) -> None:
    with build(FAULT, mode) as machine:
        assert isinstance(machine.run().exit, ShutdownExit)


@pytest.mark.scenario("run.code.entry")
def test_code_begins_at_its_entry(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    with builder.code(FAULT + HLT, "long", entry=0x1002).build() as machine:
        assert isinstance(machine.run().exit, HltExit)


@pytest.mark.scenario("run.code.over_slots")
def test_code_lies_over_two_slots(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(1 << 20, 1 << 20, "anonymous")
    with builder.code(LONG, "long", gpa=(1 << 20) - 5, rbx=(1 << 20) - 5).build() as machine:
        assert machine.run().console == "L"


@pytest.mark.scenario("run.code.again")
def test_one_vcpu_runs_in_one_mode_after_the_other(build: Build) -> None:
    with build(LONG, "long") as machine:
        assert machine.run().console == "L"
        for mode, code, said in (
            ("real", REAL, "A"),
            ("protected", PROTECTED, "P"),
            ("long-cpl3", LONG_CPL3, "C"),
            ("real", REAL, "A"),
            ("long", LONG, "L"),
        ):
            machine.enter_code(code, mode, gpa=0x2000, rbx=0x2000)
            assert machine.run().console == said, mode


@pytest.mark.scenario("run.code.no_tables")
def test_modes_with_descriptors_need_tables(build: Build) -> None:
    with build(REAL, "real") as machine:
        assert machine.gdt is None
        for mode in ("protected", "long"):
            with pytest.raises(HarnessError, match=f"code needs page tables for {mode}"):
                machine.enter_code(HLT, mode)


@pytest.mark.scenario("run.code.tables_above")
def test_tables_above_all_memory_are_mapped(vm_builder: Callable[..., VmBuilder]) -> None:
    """The GDT lies past the last GiB of memory then; code that loads segments reads it."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(3 << 30, 1 << 30, "anonymous")
    with builder.code(LONG, "long", rbx=0x1000).build() as machine:
        assert machine.page_table == 4 << 30
        assert machine.run().console == "L"


@pytest.mark.scenario("run.code.in_kernel_apic")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
@pytest.mark.parametrize("kind", ["full", "split"])
def test_every_vcpu_runs_its_code_with_an_in_kernel_apic(
    vm_builder: Callable[..., VmBuilder], kind: Literal["full", "split"]
) -> None:
    """All but the first would wait for INIT there, and one that has halted for an interrupt."""
    builder = vm_builder().memory(0, 1 << 20, "anonymous").vcpus(2).irqchip(kind)
    with builder.code(DX_IS_CONSOLE + b"\xb0\x56\xee\x0f\x0b", "long").build() as machine:
        assert [run.console for run in machine.run_all()] == ["V", "V"]
        machine.vcpus[0].set_mp_state(lib.KVM_MP_STATE_HALTED)
        machine.enter("exits", case=ExitCase.SHUTDOWN)
        assert isinstance(machine.run().exit, ShutdownExit)


@pytest.mark.scenario("run.code.irqchip")
@pytest.mark.requires_cap("KVM_CAP_IRQCHIP")
def test_what_an_irqchip_is(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").vcpus(2)
    with builder.build() as machine:
        assert machine.vcpus[0].try_.get_lapic().errno_name == "EINVAL"
    with builder.irqchip().build() as machine:
        assert machine.get_irqchip(Irqchip.IOAPIC).chip_id == Irqchip.IOAPIC
        machine.get_pit2()
        ids = [vcpu.get_lapic().read(0x20) >> 24 for vcpu in machine.vcpus]
        states = [vcpu.get_mp_state() for vcpu in machine.vcpus]
    assert ids == [0, 1]
    assert states == [lib.KVM_MP_STATE_RUNNABLE, lib.KVM_MP_STATE_UNINITIALIZED]


@pytest.mark.scenario("run.code.split_irqchip")
@pytest.mark.requires_cap("KVM_CAP_SPLIT_IRQCHIP")
def test_what_a_split_irqchip_is(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").vcpus(1).irqchip("split")
    with builder.build() as machine:
        assert machine.try_.get_irqchip(Irqchip.IOAPIC).errno_name == "ENXIO"
        assert machine.vcpus[0].try_.get_lapic().ok
