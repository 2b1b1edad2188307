# SPDX-License-Identifier: MIT
"""Entering a vCPU in real, protected or long mode, with our own page tables and descriptor tables.

Architectural layouts are those of the Intel SDM volume 3A: 4.5 (4-level paging), 3.4.5 (segment
descriptors) and 2.5 (control registers). Selectors are those of Linux's boot protocols, where
__BOOT_CS is 0x10 and __BOOT_DS 0x18 (Documentation/arch/x86/boot.rst), and of its user mode.
"""

from __future__ import annotations

import functools

from kvmharness.kvm.registers import Regs, Segment, Sregs
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.machine.payload import Mode

_PAGE = 4096
_GIB = 1 << 30
_LARGE_PAGE = 2 << 20

_PRESENT_WRITABLE_USER = 0x7
_PAGE_SIZE_BIT = 0x80

_CR0_REAL = 0x10  # ET, which is hard-wired
_CR0_PROTECTED = 0x33  # NE ET MP PE
_CR0_LONG = 0x80000033  # PG NE ET MP PE
_CR4_LONG = 0x620  # OSXMMEXCPT OSFXSR PAE
_EFER_LONG = 0x500  # LMA LME
_SEGMENT = 0x1_0000
_VECTOR_TABLE_LIMIT = 0x3FF

_RFLAGS = 0x2
_RFLAGS_IOPL3 = 0x3000

_CODE = 0xB  # execute, read, accessed
_DATA = 0x3  # read, write, accessed

_KERNEL_CS, _KERNEL_DS = 0x10, 0x18
_USER_DS, _USER_CS = 0x28 | 3, 0x30 | 3

# Flat descriptors: base 0, limit 4 GiB in pages, present, accessed.
_KERNEL_CODE32 = 0x00CF9B00_0000FFFF
_KERNEL_CODE64 = 0x00AF9B00_0000FFFF
_KERNEL_DATA = 0x00CF9300_0000FFFF
_USER_CODE32 = 0x00CFFB00_0000FFFF
_USER_CODE64 = 0x00AFFB00_0000FFFF
_USER_DATA = 0x00CFF300_0000FFFF

_PROTECTED_GDT = (0, 0, _KERNEL_CODE32, _KERNEL_DATA, _USER_CODE32, _USER_DATA)
_LONG_GDT = (0, 0, _KERNEL_CODE64, _KERNEL_DATA, _USER_CODE32, _USER_DATA, _USER_CODE64)
_LONG_GDT_AT = 0x100


@functools.cache
def page_tables(base: int, gib: int) -> bytes:
    """Build 4-level tables that map the first `gib` GiB (at most 512) to themselves.

    `base` is the gpa (bytes) they will lie at: one page of PML4, one of PDPT, one page directory
    of 2 MiB pages for each GiB. Everything is writable, and accessible at CPL3.
    """
    if not 1 <= gib <= 512:
        raise ValueError(f"one PDPT maps 1 to 512 GiB, not {gib}")
    pml4 = [base + _PAGE | _PRESENT_WRITABLE_USER]
    pdpt = [base + (2 + index) * _PAGE | _PRESENT_WRITABLE_USER for index in range(gib)]
    directories = range(0, gib * _GIB, _LARGE_PAGE)
    return (
        _table(pml4)
        + _table(pdpt)
        + b"".join(
            (gpa | _PRESENT_WRITABLE_USER | _PAGE_SIZE_BIT).to_bytes(8, "little")
            for gpa in directories
        )
    )


def page_tables_size(gib: int) -> int:
    """Return the size in bytes of ``page_tables(base, gib)``."""
    return (2 + gib) * _PAGE


def descriptor_tables() -> bytes:
    """Build the page with the GDTs that protected and long mode use.

    Selectors 0x10 and 0x18 are code and data at CPL0; 0x23, 0x2b and in long mode 0x33 are 32-bit
    code, data and 64-bit code at CPL3.
    """
    return _table([*_PROTECTED_GDT, *[0] * (_LONG_GDT_AT // 8 - len(_PROTECTED_GDT)), *_LONG_GDT])


def enter(
    vcpu: Vcpu, mode: Mode, entry: int, *, page_table: int = 0, gdt: int = 0, **registers: int
) -> None:
    """Set up `vcpu` to begin at `entry` (gpa in bytes) in `mode`, with interrupts off.

    `page_table` is the gpa (bytes) of the PML4 that long mode uses, `gdt` that of the
    descriptor_tables(); `registers` are general registers by name (``rdi=...``). The IDT is empty
    but in real mode, where it is the vector table at 0. KVM_SET_SREGS then KVM_SET_REGS, errors
    raised as KvmError.
    """
    sregs = vcpu.get_sregs()
    regs = Regs(rip=entry, rflags=_RFLAGS, **registers)
    sregs.idt.base = 0
    sregs.idt.limit = 0
    if mode is Mode.REAL:
        regs.rip = _real_mode(sregs, entry)
    elif mode is Mode.PROTECTED:
        _protected_mode(sregs, gdt)
    else:
        privilege = 3 if mode is Mode.LONG_CPL3 else 0
        if privilege:
            regs.rflags |= _RFLAGS_IOPL3
        _long_mode(sregs, page_table, gdt + _LONG_GDT_AT, privilege)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def _real_mode(sregs: Sregs, entry: int) -> int:
    """Return the IP: CS is 0 where that reaches `entry`."""
    cs = 0 if entry < _SEGMENT else min(entry >> 4, 0xFFFF)
    sregs.cr0 = _CR0_REAL
    sregs.cr3 = 0
    sregs.cr4 = 0
    sregs.efer = 0
    for segment in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _segment(segment, 0, _DATA, 0)
        segment.limit = 0xFFFF
        segment.db = 0
        segment.g = 0
    sregs.cs.type = _CODE
    sregs.cs.selector = cs
    sregs.cs.base = cs << 4
    sregs.idt.limit = _VECTOR_TABLE_LIMIT
    return entry - (cs << 4)


def _protected_mode(sregs: Sregs, gdt: int) -> None:
    sregs.cr0 = _CR0_PROTECTED
    sregs.cr3 = 0
    sregs.cr4 = 0
    sregs.efer = 0
    sregs.gdt.base = gdt
    sregs.gdt.limit = 8 * len(_PROTECTED_GDT) - 1
    _segment(sregs.cs, _KERNEL_CS, _CODE, 0)
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _segment(segment, _KERNEL_DS, _DATA, 0)


def _long_mode(sregs: Sregs, page_table: int, gdt: int, privilege: int) -> None:
    sregs.cr0 = _CR0_LONG
    sregs.cr3 = page_table
    sregs.cr4 = _CR4_LONG
    sregs.efer = _EFER_LONG
    sregs.gdt.base = gdt
    sregs.gdt.limit = 8 * len(_LONG_GDT) - 1
    _segment(sregs.cs, _USER_CS if privilege else _KERNEL_CS, _CODE, privilege)
    sregs.cs.l = 1
    sregs.cs.db = 0
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _segment(segment, _USER_DS if privilege else _KERNEL_DS, _DATA, privilege)
    # TR stays as at reset: a busy TSS, which VM entry demands and nothing reads.


def _segment(segment: Segment, selector: int, kind: int, privilege: int) -> None:
    segment.base = 0
    segment.limit = 0xFFFFFFFF
    segment.selector = selector
    segment.type = kind
    segment.present = 1
    segment.dpl = privilege
    segment.db = 1
    segment.s = 1
    segment.l = 0
    segment.g = 1
    segment.unusable = 0


def _table(entries: list[int]) -> bytes:
    filled = b"".join(entry.to_bytes(8, "little") for entry in entries)
    return filled.ljust(_PAGE, b"\0")
