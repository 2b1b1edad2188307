# SPDX-License-Identifier: MIT
"""A vCPU's registers: with PDPTRs, by id, its CPUID as it was set; and address translation."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry, get_cpuid, set_cpuid
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, array, get, inside, put
from kvmharness.record import Record


class Regs(Struct, kind="kvm_regs"):
    """struct kvm_regs: the general registers, RIP and RFLAGS."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 0


class Segment(Struct, kind="kvm_segment"):
    """struct kvm_segment: a segment register with its hidden part."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 (the architecture's name)
    g: int = 0
    avl: int = 0
    unusable: int = 0


class DescriptorTable(Struct, kind="kvm_dtable"):
    """struct kvm_dtable: the GDTR or the IDTR."""

    base: int = 0
    limit: int = 0


class Sregs(Struct, kind="kvm_sregs"):
    """struct kvm_sregs: system registers; `interrupt_bitmap` has the vector that is pending."""

    cs: Segment = inside(Segment)
    ds: Segment = inside(Segment)
    es: Segment = inside(Segment)
    fs: Segment = inside(Segment)
    gs: Segment = inside(Segment)
    ss: Segment = inside(Segment)
    tr: Segment = inside(Segment)
    ldt: Segment = inside(Segment)
    gdt: DescriptorTable = inside(DescriptorTable)
    idt: DescriptorTable = inside(DescriptorTable)
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    interrupt_bitmap: MutableSequence[int] = array()


class Sregs2(Struct, kind="kvm_sregs2"):
    """struct kvm_sregs2: system registers; `pdptrs` count with KVM_SREGS2_FLAGS_PDPTRS_VALID."""

    cs: Segment = inside(Segment)
    ds: Segment = inside(Segment)
    es: Segment = inside(Segment)
    fs: Segment = inside(Segment)
    gs: Segment = inside(Segment)
    ss: Segment = inside(Segment)
    tr: Segment = inside(Segment)
    ldt: Segment = inside(Segment)
    gdt: DescriptorTable = inside(DescriptorTable)
    idt: DescriptorTable = inside(DescriptorTable)
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    flags: int = 0
    pdptrs: MutableSequence[int] = array()


class Translation(Record, frozen=True):
    """Where a linear address leads: `gpa` (bytes), None where nothing is mapped."""

    linear_address: int
    gpa: int | None
    writeable: bool
    usermode: bool


class RegistersTry:
    """The calls for registers, each giving a Result."""

    _vcpu: HasFileno

    def get_regs(self) -> Result[Regs]:
        """KVM_GET_REGS: the general registers, RIP and RFLAGS."""
        return get(self._vcpu, "KVM_GET_REGS", Regs)

    def set_regs(self, regs: Regs) -> Result[int]:
        """KVM_SET_REGS. EINVAL: the state is the guest's secret."""
        return put(self._vcpu, "KVM_SET_REGS", regs, Regs)

    def get_sregs(self) -> Result[Sregs]:
        """KVM_GET_SREGS: segments, control registers, EFER."""
        return get(self._vcpu, "KVM_GET_SREGS", Sregs)

    def set_sregs(self, sregs: Sregs) -> Result[int]:
        """KVM_SET_SREGS. EINVAL: an impossible combination."""
        return put(self._vcpu, "KVM_SET_SREGS", sregs, Sregs)

    def get_sregs2(self) -> Result[Sregs2]:
        """KVM_GET_SREGS2 (5.14): segments, control registers, PDPTRs."""
        return get(self._vcpu, "KVM_GET_SREGS2", Sregs2)

    def set_sregs2(self, sregs: Sregs2) -> Result[int]:
        """KVM_SET_SREGS2. EINVAL: an impossible combination, or unknown flags."""
        return put(self._vcpu, "KVM_SET_SREGS2", sregs, Sregs2)

    def get_cpuid2(self) -> Result[Cpuid]:
        """KVM_GET_CPUID2: what was set, as the guest sees it now."""
        return get_cpuid(self._vcpu, "KVM_GET_CPUID2")

    def set_cpuid2(self, cpuid: Iterable[CpuidEntry]) -> Result[int]:
        """KVM_SET_CPUID2 of a Cpuid or other entries, such as ``Kvm.get_supported_cpuid()``.

        E2BIG: more than 256. EINVAL: what KVM does not allow, or the vCPU ran with another.
        """
        return set_cpuid(self._vcpu, "KVM_SET_CPUID2", cpuid)

    def translate(self, address: int) -> Result[Translation]:
        """KVM_TRANSLATE: walk the guest's page tables for the linear `address`."""
        where = make("struct kvm_translation *", linear_address=address)
        result = ioctl.call(self._vcpu.fileno(), "KVM_TRANSLATE", where)
        return result.with_value(
            Translation(
                int(where.linear_address),
                int(where.physical_address) if where.valid else None,
                bool(where.writeable),
                bool(where.usermode),
            )
        )

    def get_one_reg(self, register: int) -> Result[bytes]:
        """KVM_GET_ONE_REG (KVM_CAP_ONE_REG): the value of `register`, whose id has its size.

        x86 has it from 6.18 on, for registers of 64 bits. EINVAL: no such register.
        """
        value = ffi.new("char[]", _size_of(register))
        return self._one_reg("KVM_GET_ONE_REG", register, value).with_value(
            bytes(ffi.buffer(value))
        )

    def set_one_reg(self, register: int, value: bytes) -> Result[int]:
        """KVM_SET_ONE_REG: `value` has as many bytes as the id of `register` says."""
        size = _size_of(register)
        if len(value) != size:
            raise ValueError(f"value: register {register:#x} has {size} bytes, not {len(value)}")
        copy = ffi.new("char[]", size)
        ffi.buffer(copy)[:] = value
        return self._one_reg("KVM_SET_ONE_REG", register, copy)

    def get_reg_list(self) -> Result[list[int]]:
        """KVM_GET_REG_LIST: the ids that KVM_GET_ONE_REG takes."""
        count = 0
        while True:
            registers = ffi.new("struct kvm_reg_list *", {"n": count, "reg": count})
            result = ioctl.call(self._vcpu.fileno(), "KVM_GET_REG_LIST", registers)
            if result.ok or registers.n <= count:
                break
            count = int(registers.n)  # E2BIG: what it takes
        found = [int(registers.reg[i]) for i in range(min(int(registers.n), count))]
        return result.with_value(found)

    def _one_reg(self, name: str, register: int, value: Any) -> Result[int]:
        address = int(ffi.cast("uintptr_t", value))
        argument = make("struct kvm_one_reg *", id=register, addr=address)
        return ioctl.call(self._vcpu.fileno(), name, argument, show=argument)


class RegistersCalls:
    """The raising forms of RegistersTry."""

    get_regs = raising(RegistersTry.get_regs)
    set_regs = raising(RegistersTry.set_regs)
    get_sregs = raising(RegistersTry.get_sregs)
    set_sregs = raising(RegistersTry.set_sregs)
    get_sregs2 = raising(RegistersTry.get_sregs2)
    set_sregs2 = raising(RegistersTry.set_sregs2)
    get_cpuid2 = raising(RegistersTry.get_cpuid2)
    set_cpuid2 = raising(RegistersTry.set_cpuid2)
    translate = raising(RegistersTry.translate)
    get_one_reg = raising(RegistersTry.get_one_reg)
    set_one_reg = raising(RegistersTry.set_one_reg)
    get_reg_list = raising(RegistersTry.get_reg_list)


def _size_of(register: int) -> int:
    """Return the bytes of a register; its id has the exponent (KVM_REG_SIZE_MASK)."""
    return 1 << int((register & lib.KVM_REG_SIZE_MASK) >> lib.KVM_REG_SIZE_SHIFT)
