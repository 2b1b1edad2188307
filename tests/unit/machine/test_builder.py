# SPDX-License-Identifier: MIT
"""What the builder tells KVM, with a fake kernel in its place: order, entries, tables, CPUID."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry, read_cpuid
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.system import Kvm
from kvmharness.machine.builder import PAGE_TABLE_GPA, VmBuilder
from kvmharness.machine.cpu_mode import descriptor_tables

from ..kvm.fake_kernel import KVM_FD, FakeKernel, disowned, mappable

MIB = 1 << 20
X2APIC = 1 << 21
SUPPORTED = [
    CpuidEntry(0, eax=0x1F),
    CpuidEntry(1, ebx=0x0900_0800, ecx=X2APIC),
    CpuidEntry(0xB, edx=9, flags=1),
    CpuidEntry(0x8000_001F, eax=0x1F, ebx=51),
]


class Recorded(FakeKernel):
    """Keeps what each ioctl was given, by name in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.answers |= {
            "KVM_CREATE_VM": lambda argument: mappable(),
            "KVM_CREATE_VCPU": lambda argument: mappable(),
            "KVM_GET_SUPPORTED_CPUID": self._supported,
            "KVM_GET_LAPIC": -22,
        }

    def issue(self, fd: int, request: int, argument: Any) -> int:
        returned = super().issue(fd, request, argument)
        if self.name == "KVM_SET_CPUID2":  # what is decoded leaves out arrays without a length
            self.argument = list(read_cpuid(argument, argument.nent))
        self.calls.append((self.name, self.argument))
        return returned

    def named(self, name: str) -> list[Any]:
        return [argument for called, argument in self.calls if called == name]

    @staticmethod
    def _supported(argument: Any) -> int:
        given = bytes(Cpuid(SUPPORTED))
        ffi.memmove(argument, given, len(given))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    fake = Recorded()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def builder(kernel: Recorded) -> Iterator[VmBuilder]:
    kvm = Kvm(KVM_FD)
    yield VmBuilder(kvm).memory(0, MIB, "anonymous")
    disowned(kvm)


def test_code_lies_where_it_is_entered(builder: VmBuilder, kernel: Recorded) -> None:
    builder.code(b"first", "real", vcpu=0).code(b"second", "protected", vcpu=1, gpa=0x8000, rdi=7)
    with builder.build() as machine:
        assert machine.read(0x1000, 5) == b"first"
        assert machine.read(0x8000, 6) == b"second"
    first, second = kernel.named("KVM_SET_REGS")
    assert (first["rip"], first["rsp"], first["rdi"]) == (0x1000, 0x1000, 0)
    assert (second["rip"], second["rsp"], second["rdi"]) == (0x8000, 0x8000, 7)
    assert [sregs["cr0"] & 1 for sregs in kernel.named("KVM_SET_SREGS")] == [0, 1]


def test_tables_are_made_in_guest_memory(builder: VmBuilder, kernel: Recorded) -> None:
    with builder.code(b"\xf4", "long").build() as machine:
        assert machine.page_table == PAGE_TABLE_GPA
        assert machine.gdt is not None
        assert machine.read(machine.gdt, 4096) == descriptor_tables()
        pml4 = int.from_bytes(machine.read(PAGE_TABLE_GPA, 8), "little")
        assert pml4 == PAGE_TABLE_GPA + 4096 | 7
        assert machine.slots[-1].holds(machine.gdt, 4096)
    (sregs,) = kernel.named("KVM_SET_SREGS")
    assert sregs["cr3"] == PAGE_TABLE_GPA
    assert machine.gdt <= sregs["gdt"]["base"] < machine.gdt + 4096


def test_real_mode_takes_no_tables(builder: VmBuilder, kernel: Recorded) -> None:
    with builder.code(b"\xf4", "real").build() as machine:
        assert (machine.page_table, machine.gdt, len(machine.slots)) == (None, None, 1)


def test_every_vcpu_gets_its_cpuid(builder: VmBuilder, kernel: Recorded) -> None:
    builder.vcpus(3).build().close()
    given = kernel.named("KVM_SET_CPUID2")
    assert [len(cpuid) for cpuid in given] == [len(SUPPORTED) + 2] * 3
    for vcpu, cpuid in enumerate(given):
        leaves = {(entry.function, entry.index): entry for entry in cpuid}
        assert leaves[1, 0].ebx >> 24 == leaves[0xB, 1].edx == vcpu
        assert not leaves[1, 0].ecx & X2APIC  # KVM has no APIC for it
        assert leaves[0x8000_001F, 0].eax == 0
    assert len(kernel.named("KVM_GET_SUPPORTED_CPUID")) == 1


@pytest.mark.parametrize("kind", ["full", "split"])
def test_interrupt_controllers_come_before_vcpus(
    builder: VmBuilder, kernel: Recorded, kind: Any
) -> None:
    kernel.answers["KVM_GET_LAPIC"] = 0
    builder.irqchip(kind).vcpus(1).build().close()
    names = [name for name, _ in kernel.calls]
    made = {"full": "KVM_CREATE_IRQCHIP", "split": "KVM_ENABLE_CAP"}[kind]
    assert names.index(made) < names.index("KVM_CREATE_VCPU")
    assert ("KVM_CREATE_PIT2" in names) == (kind == "full")
    (cpuid,) = kernel.named("KVM_SET_CPUID2")
    assert next(entry for entry in cpuid if entry.function == 1).ecx & X2APIC


def test_code_for_a_vcpu_there_is_not(builder: VmBuilder) -> None:
    builder.code(b"\xf4", "real", vcpu=2)
    builder.vcpus(2)
    with pytest.raises(HarnessError, match="code is for vCPU 2, of 2 from 0"):
        builder.build()
