# SPDX-License-Identifier: MIT
"""Page tables and segment registers, walked and read as the processor would."""

from __future__ import annotations

from typing import Any

import pytest

from kvmharness.kvm.ffi import ffi
from kvmharness.machine.cpu_mode import enter, page_tables, page_tables_size
from kvmharness.machine.payload import Mode

PAGE = 4096
GIB = 1 << 30
PRESENT, WRITABLE, USER, LARGE = 1, 2, 4, 0x80
ADDRESS = 0x000F_FFFF_FFFF_F000


def translate(tables: bytes, base: int, linear: int) -> int | None:
    """Walk 4-level tables that lie at `base` (Intel SDM volume 3A, 4.5); None: not present."""
    table = base
    for shift in (39, 30, 21):
        at = table - base + 8 * (linear >> shift & 511)
        entry = int.from_bytes(tables[at : at + 8], "little")
        if not entry & PRESENT:
            return None
        assert entry & WRITABLE
        assert entry & USER
        if entry & LARGE:
            assert shift == 21
            return (entry & ADDRESS & ~0x1F_FFFF) | linear & 0x1F_FFFF
        table = entry & ADDRESS
    raise AssertionError("the builder's tables use 2 MiB pages alone")


@pytest.mark.parametrize("gib", [1, 4, 5, 512])
def test_every_address_within_is_mapped_to_itself(gib: int) -> None:
    base = 0xE000_0000
    tables = page_tables(base, gib)
    assert len(tables) == page_tables_size(gib)
    end = gib * GIB
    for linear in (0, 1, 0x1F_FFFF, 0x20_0000, GIB - 1, end // 2, end - 0x20_0000, end - 1):
        assert translate(tables, base, linear) == linear


@pytest.mark.parametrize("gib", [1, 4, 5])
def test_nothing_beyond_is_mapped(gib: int) -> None:
    tables = page_tables(0x10_0000, gib)
    for linear in (gib * GIB, gib * GIB + 1, 511 * GIB, 512 * GIB, 1 << 46):
        assert translate(tables, 0x10_0000, linear) is None


def test_tables_refer_to_where_they_lie() -> None:
    one, other = page_tables(0x10_0000, 2), page_tables(0x50_0000_0000, 2)
    assert one != other
    assert translate(other, 0x50_0000_0000, GIB + 5) == GIB + 5


@pytest.mark.parametrize("gib", [0, -1, 513])
def test_one_directory_pointer_table_has_512_entries(gib: int) -> None:
    with pytest.raises(ValueError, match="1 to 512 GiB"):
        page_tables(0, gib)


class FakeVcpu:
    """Registers in memory; what a vCPU was given."""

    def __init__(self) -> None:
        self.sregs = ffi.new("struct kvm_sregs *")
        self.regs = ffi.new("struct kvm_regs *")
        # Something a reset leaves, and something an earlier mode would.
        self.sregs.tr.type = 11
        self.sregs.cs.base = 0xFFFF_0000
        self.sregs.cs.selector = 0xF000
        self.sregs.gdt.limit = 0xFFFF

    def get_sregs(self) -> Any:
        return self.sregs

    def set_sregs(self, sregs: Any) -> None:
        self.sregs = sregs

    def set_regs(self, regs: Any) -> None:
        self.regs = regs


def entered(mode: Mode, vcpu: FakeVcpu | None = None, **registers: int) -> FakeVcpu:
    vcpu = vcpu or FakeVcpu()
    enter(vcpu, mode, 0x1_0000, page_table=0xE000_0000, **registers)  # type: ignore[arg-type]
    return vcpu


def data_segments(vcpu: FakeVcpu) -> list[Any]:
    sregs = vcpu.sregs
    return [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss]


@pytest.mark.parametrize(("mode", "cpl"), [(Mode.LONG_CPL0, 0), (Mode.LONG_CPL3, 3)])
def test_long_mode(mode: Mode, cpl: int) -> None:
    vcpu = entered(mode)
    sregs = vcpu.sregs
    assert sregs.cr0 & 0x8000_0001 == 0x8000_0001  # PG, PE
    assert sregs.cr3 == 0xE000_0000
    assert sregs.cr4 & 0x20  # PAE
    assert sregs.efer & 0x500 == 0x500  # LME, LMA
    assert (sregs.cs.l, sregs.cs.db, sregs.cs.present, sregs.cs.s) == (1, 0, 1, 1)
    assert sregs.cs.type & 8  # code
    for segment in (sregs.cs, *data_segments(vcpu)):
        assert segment.dpl == cpl
        assert segment.selector & 3 == cpl
        assert segment.base == 0
    assert all(segment.type == 3 for segment in data_segments(vcpu))
    assert sregs.tr.type == 11  # as it was
    assert vcpu.regs.rip == 0x1_0000
    # Reserved bit 1; at CPL3 port instructions take IOPL 3.
    assert vcpu.regs.rflags == (0x3002 if cpl else 0x2)


def test_real_mode_from_reset_and_from_long_mode() -> None:
    for vcpu in (FakeVcpu(), entered(Mode.LONG_CPL3)):
        entered(Mode.REAL, vcpu)
        sregs = vcpu.sregs
        assert (sregs.cr0 & 0x8000_0001, sregs.cr4, sregs.efer) == (0, 0, 0)
        assert (sregs.cs.base, sregs.cs.selector, sregs.cs.l, sregs.cs.dpl) == (0, 0, 0, 0)
        assert sregs.cs.type & 8
        for segment in (sregs.cs, *data_segments(vcpu)):
            assert (segment.base, segment.limit, segment.g, segment.db) == (0, 0xFFFF, 0, 0)
        assert (vcpu.regs.rip, vcpu.regs.rflags) == (0x1_0000, 0x2)


def test_registers_are_passed_by_name_and_the_rest_is_zero() -> None:
    vcpu = entered(Mode.LONG_CPL0, rdi=1, rsi=2**64 - 1, r8=3)
    assert (vcpu.regs.rdi, vcpu.regs.rsi, vcpu.regs.r8) == (1, 2**64 - 1, 3)
    assert (vcpu.regs.rax, vcpu.regs.rsp, vcpu.regs.r15) == (0, 0, 0)


def test_a_register_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(AttributeError):
        entered(Mode.LONG_CPL0, rzx=1)
