# SPDX-License-Identifier: MIT
"""Page tables and segment registers, walked and read as the processor would."""

from __future__ import annotations

import pytest

from kvmharness.kvm.registers import Regs, Segment, Sregs
from kvmharness.machine.cpu_mode import descriptor_tables, enter, page_tables, page_tables_size
from kvmharness.machine.payload import Mode

PAGE = 4096
GIB = 1 << 30
PRESENT, WRITABLE, USER, LARGE = 1, 2, 4, 0x80
ADDRESS = 0x000F_FFFF_FFFF_F000
GDT = 0xE100_0000


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
        self.sregs = Sregs()
        self.regs = Regs()
        # Something a reset leaves, and something an earlier mode would.
        self.sregs.tr.type = 11
        self.sregs.cs.base = 0xFFFF_0000
        self.sregs.cs.selector = 0xF000
        self.sregs.gdt.limit = 0xFFFF

    def get_sregs(self) -> Sregs:
        return self.sregs

    def set_sregs(self, sregs: Sregs) -> None:
        self.sregs = sregs

    def set_regs(self, regs: Regs) -> None:
        self.regs = regs


def entered(
    mode: Mode, vcpu: FakeVcpu | None = None, at: int = 0xF000, **registers: int
) -> FakeVcpu:
    vcpu = vcpu or FakeVcpu()
    enter(vcpu, mode, at, page_table=0xE000_0000, gdt=GDT, **registers)  # type: ignore[arg-type]
    return vcpu


def data_segments(vcpu: FakeVcpu) -> list[Segment]:
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
    assert vcpu.regs.rip == 0xF000
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
        assert (vcpu.regs.rip, vcpu.regs.rflags) == (0xF000, 0x2)
        assert (sregs.idt.base, sregs.idt.limit) == (0, 0x3FF)


@pytest.mark.parametrize("at", [0x1_0000, 0x2_1234, 0xF_FFF0, 0x10_FFEF])
def test_real_mode_beyond_the_first_segment(at: int) -> None:
    vcpu = entered(Mode.REAL, at=at)
    cs = vcpu.sregs.cs
    assert cs.base == cs.selector << 4
    assert cs.base + vcpu.regs.rip == at
    assert vcpu.regs.rip <= cs.limit == 0xFFFF


@pytest.mark.parametrize("before", [None, Mode.REAL, Mode.LONG_CPL3])
def test_protected_mode(before: Mode | None) -> None:
    vcpu = entered(Mode.PROTECTED, entered(before) if before else None, at=0xF000_0000)
    sregs = vcpu.sregs
    assert sregs.cr0 & 0x8000_0001 == 1  # PE, no PG
    assert (sregs.cr4, sregs.efer) == (0, 0)
    assert (sregs.cs.db, sregs.cs.l, sregs.cs.dpl) == (1, 0, 0)
    for segment in (sregs.cs, *data_segments(vcpu)):
        assert (segment.base, segment.limit, segment.g) == (0, 0xFFFF_FFFF, 1)
    assert (vcpu.regs.rip, vcpu.regs.rflags) == (0xF000_0000, 2)


@pytest.mark.parametrize("mode", [Mode.PROTECTED, Mode.LONG_CPL0, Mode.LONG_CPL3])
def test_the_gdt_has_the_segments_that_are_loaded(mode: Mode) -> None:
    """Loading them again, as guests do first, must change nothing (SDM volume 3A, 3.4.5)."""
    vcpu, tables = entered(mode), descriptor_tables()
    gdt = vcpu.sregs.gdt
    assert GDT <= gdt.base < gdt.base + gdt.limit < GDT + len(tables) == GDT + PAGE
    for segment in (vcpu.sregs.cs, *data_segments(vcpu)):
        index = segment.selector & ~7
        assert 0 < index < index + 7 <= gdt.limit
        at = gdt.base - GDT + index
        low, high = (int.from_bytes(tables[at + part : at + part + 4], "little") for part in (0, 4))
        limit = low & 0xFFFF | high & 0xF_0000
        assert (low >> 16 | (high & 0xFF) << 16 | high & 0xFF00_0000) == segment.base
        assert (limit << 12 | 0xFFF) == segment.limit
        assert high >> 8 & 0xF == segment.type
        assert high >> 12 & 1 == segment.s
        assert high >> 13 & 3 == segment.dpl
        assert high >> 15 & 1 == segment.present
        assert high >> 21 & 1 == segment.l
        assert high >> 22 & 1 == segment.db
        assert high >> 23 & 1 == segment.g
    assert tables[gdt.base - GDT : gdt.base - GDT + 8] == bytes(8)  # the null descriptor


def test_boot_protocols_selectors() -> None:
    for mode in (Mode.PROTECTED, Mode.LONG_CPL0):
        vcpu = entered(mode)
        assert vcpu.sregs.cs.selector == 0x10
        assert {segment.selector for segment in data_segments(vcpu)} == {0x18}


def test_without_an_idt_a_fault_ends_the_guest() -> None:
    for mode in (Mode.PROTECTED, Mode.LONG_CPL0, Mode.LONG_CPL3):
        assert entered(mode, entered(Mode.REAL)).sregs.idt.limit == 0


def test_registers_are_passed_by_name_and_the_rest_is_zero() -> None:
    vcpu = entered(Mode.LONG_CPL0, rdi=1, rsi=2**64 - 1, r8=3)
    assert (vcpu.regs.rdi, vcpu.regs.rsi, vcpu.regs.r8) == (1, 2**64 - 1, 3)
    assert (vcpu.regs.rax, vcpu.regs.rsp, vcpu.regs.r15) == (0, 0, 0)


def test_a_register_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="Regs has no field rzx"):
        entered(Mode.LONG_CPL0, rzx=1)
