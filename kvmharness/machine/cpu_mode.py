# SPDX-License-Identifier: MIT
"""Entering a vCPU in real mode or in 64-bit long mode, at CPL0 or CPL3, with our own page tables.

Architectural layouts are those of the Intel SDM volume 3A: 4.5 (4-level paging), 3.4.5 (segment
descriptors) and 2.5 (control registers).
"""

from __future__ import annotations

import functools
from typing import Any

from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.machine.payload import Mode

_PAGE = 4096
_GIB = 1 << 30
_LARGE_PAGE = 2 << 20

_PRESENT_WRITABLE_USER = 0x7
_PAGE_SIZE_BIT = 0x80

_CR0_REAL = 0x10  # ET, which is hard-wired
_CR0_LONG = 0x80000033  # PG NE ET MP PE
_CR4_LONG = 0x620  # OSXMMEXCPT OSFXSR PAE
_EFER_LONG = 0x500  # LMA LME
_RFLAGS = 0x2
_RFLAGS_IOPL3 = 0x3000

_CODE = 0xB  # execute, read, accessed
_DATA = 0x3  # read, write, accessed


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


def enter(vcpu: Vcpu, mode: Mode, entry: int, *, page_table: int = 0, **registers: int) -> None:
    """Set up `vcpu` to begin at `entry` (gpa in bytes) in `mode`.

    `page_table` is the gpa (bytes) of the PML4 that long mode uses; `registers` are general
    registers by name (``rdi=...``). KVM_SET_SREGS then KVM_SET_REGS, errors raised as KvmError.
    """
    sregs = vcpu.get_sregs()
    regs = ffi.new("struct kvm_regs *")
    regs.rip = entry
    regs.rflags = _RFLAGS
    for name, value in registers.items():
        setattr(regs, name, value)
    if mode is Mode.REAL:
        _real_mode(sregs)
    else:
        privilege = 3 if mode is Mode.LONG_CPL3 else 0
        if privilege:
            regs.rflags |= _RFLAGS_IOPL3
        _long_mode(sregs, page_table, privilege)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def _real_mode(sregs: Any) -> None:
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


def _long_mode(sregs: Any, page_table: int, privilege: int) -> None:
    sregs.cr0 = _CR0_LONG
    sregs.cr3 = page_table
    sregs.cr4 = _CR4_LONG
    sregs.efer = _EFER_LONG
    _segment(sregs.cs, 0x8 | privilege, _CODE, privilege)
    sregs.cs.l = 1
    sregs.cs.db = 0
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _segment(segment, 0x10 | privilege, _DATA, privilege)
    # TR stays as at reset: a busy TSS, which VM entry demands and nothing reads.


def _segment(segment: Any, selector: int, kind: int, privilege: int) -> None:
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
