# SPDX-License-Identifier: MIT
"""The SNP scenarios: sources, page types, ranges, the launch's states, the firmware, races.

What each gives on which kernel is in contract/snp.toml; here is only what is tried.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import struct
import threading
import time
from typing import Any

from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result
from kvmharness.launch.sev import DEFAULT_POLICY, PageType, SnpPolicy
from kvmharness.launch.source import SourceBuffer
from kvmharness.scenarios.populate_bench import SLOT_PAGES
from kvmharness.scenarios.races import meanwhile
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.standins import snp as standin

# Firmware commands as the stand-in counts them (SEV_CMD_SNP_* of linux/psp-sev.h, not uAPI).
_CMD_LAUNCH_START = 0xA0
_CMD_LAUNCH_UPDATE = 0xA1
_CMD_LAUNCH_FINISH = 0xA2
_CMD_ACTIVATE = 0x91
_CMD_GCTX_CREATE = 0x93

_INVALID_PAGE_STATE = 0x1A
_RESOURCE_LIMIT = 0x17


#: A CPUID page without functions, which any firmware takes.
_CPUID_EMPTY = bytes(PAGE_SIZE)
#: A CPUID page with one function, leaf 0, that promises more leaves than any processor has: the
#: firmware writes the right number into it (firmware ABI, 8.17.2, and 7.1 for the page's layout).
_CPUID_WRONG = struct.pack("<I12xIIQQI", 1, 0, 0, 0, 0, 0xFFFF).ljust(PAGE_SIZE, b"\0")
#: A CPUID page that claims more functions than it has room for: refused as it is.
_CPUID_MALFORMED = struct.pack("<I", 99).ljust(PAGE_SIZE, b"\0")


def _contents(type_: PageType, pages: int) -> bytes | None:
    return _CPUID_EMPTY * pages if type_ is PageType.CPUID else None


# ------------------------------------------------------------------ sources and page types


def _try_source(bench: SnpBench, kind: str, type_: PageType, pages: int) -> None:
    source = bench.source(kind, pages, _contents(type_, pages))
    result = bench.update(0, pages, source, type_)
    left = (result.written_back or (0, 0, 0))[2] // PAGE_SIZE
    # A source that ends early: what the next call says about the page that stopped the first.
    if result.ok and left:
        done = pages - left
        rest = source.address + done * PAGE_SIZE if isinstance(source, SourceBuffer) else source
        bench.update(done, pages - done, rest, type_)


for _kind in SOURCE_KINDS.values():
    # snp.source.* is NORMAL; snp.type.<type>.<source> are the others.
    snp_scenario(f"snp.source.{_kind.name}", f"NORMAL pages from {_kind.summary}", *_kind.needs)(
        functools.partial(_try_source, kind=_kind.name, type_=PageType.NORMAL, pages=4)
    )
    for _type in (PageType.ZERO, PageType.UNMEASURED, PageType.SECRETS, PageType.CPUID):
        # One page of SECRETS or CPUID is what a guest has; the others come in ranges.
        _pages = 1 if _type in (PageType.SECRETS, PageType.CPUID) and _kind.name != "hole" else 4
        _id = f"snp.type.{_type.name.lower()}.{_kind.name}"
        if _type is PageType.CPUID and _kind.name == "readonly":
            _id = "snp.source.readonly_cpuid"
        if _type is PageType.ZERO and _kind.name == "null":
            _id = "snp.zero.null"
        snp_scenario(_id, f"{_type.name} from {_kind.summary}", *_kind.needs)(
            functools.partial(_try_source, kind=_kind.name, type_=_type, pages=_pages)
        )


@snp_scenario("snp.source.wraps", "a source that runs past the end of the address space")
def _source_wraps(bench: SnpBench) -> None:
    bench.update(0, 2, (1 << 64) - PAGE_SIZE)


@snp_scenario(
    "snp.source.guest_memfd",
    "the shared mapping of another guest_memfd",
    "mappable_guest_memfd",
)
def _source_guest_memfd(bench: SnpBench) -> None:
    with bench.kvm.create_vm() as other:
        flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
        with (
            other.create_guest_memfd(2 * PAGE_SIZE, flags) as guest_memfd,
            SourceBuffer.guest_memfd(guest_memfd, 2) as source,
        ):
            bench.update(0, 2, source)


@snp_scenario(
    "snp.inplace.same_guest_memfd",
    "the VM's own guest_memfd, mapped, as the source of itself",
    "mappable_guest_memfd",
)
def _source_same_guest_memfd(bench: SnpBench) -> None:
    machine = bench.make()
    created = machine.try_.create_guest_memfd(2 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_MMAP)
    bench.command("KVM_CREATE_GUEST_MEMFD with MMAP", created)
    if created.value is None:
        return
    machine.own(created.value)
    mapping = created.value.mmap()
    machine.own(mapping)
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region2(
        1, gpa, 2 * PAGE_SIZE, mapping.address, lib.KVM_MEM_GUEST_MEMFD, created.value
    )
    machine.set_private(gpa, 2 * PAGE_SIZE)
    machine.snp.launch_start()
    bench.update(SLOT_PAGES, 2, mapping.address)


@snp_scenario("snp.inplace.null_source", "NULL as the source of a range never written")
def _inplace_null(bench: SnpBench) -> None:
    bench.update(0, 2, None)
    bench.update(0, 2, bench.source("aligned", 2))


@snp_scenario(
    "snp.inplace.init_shared",
    "a guest_memfd of the SNP VM that begins shared",
    "mappable_guest_memfd",
)
def _inplace_init_shared(bench: SnpBench) -> None:
    machine = bench.make()
    flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
    created = machine.try_.create_guest_memfd(2 * PAGE_SIZE, flags)
    if created.value is not None:
        machine.own(created.value)
    bench.command("KVM_CREATE_GUEST_MEMFD with INIT_SHARED", created)


@snp_scenario(
    "snp.inplace.attributes2", "KVM_SET_MEMORY_ATTRIBUTES2 on the VM's guest_memfd (queued for 7.4)"
)
def _inplace_attributes2(bench: SnpBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    bench.command(
        "KVM_SET_MEMORY_ATTRIBUTES2",
        guest_memfd.try_.set_memory_attributes2(0, PAGE_SIZE, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE),
    )


@snp_scenario("snp.source.changed_after", "the source changes after the call", "standin")
def _source_changed_after(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    bench.update(0, 1, source)
    before = standin.launch_digest()
    source.mapping.fill(0, PAGE_SIZE, 0xFF)
    bench.fact("the launch digest", "same" if standin.launch_digest() == before else "changed")


@snp_scenario("snp.type.unknown", "page types the uAPI does not have, VMSA (2) among them")
def _type_unknown(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for type_ in (0, 2, 7, 255):
        bench.update(0, 1, source, type_)


@snp_scenario("snp.flags.unknown", "flags, of which there are none")
def _flags_unknown(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for bit in (0, 7, 15):
        bench.update(0, 1, source, flags=1 << bit)


# ------------------------------------------------------------------ lengths and ranges


@snp_scenario("snp.len.zero", "a length of 0")
def _len_zero(bench: SnpBench) -> None:
    bench.update(0, 0, bench.source("aligned", 1))


@snp_scenario("snp.len.unaligned", "lengths that are not whole pages")
def _len_unaligned(bench: SnpBench) -> None:
    source = bench.source("aligned", 2)
    for size in (1, PAGE_SIZE // 2, PAGE_SIZE + 1):
        bench.update(0, 1, source, size=size)


@snp_scenario("snp.len.huge", "a length of 2^63 bytes: the slot's end cuts it")
def _len_huge(bench: SnpBench) -> None:
    bench.update(SLOT_PAGES - 2, 0, bench.source("aligned", 2), size=1 << 63)


@snp_scenario("snp.range.not_private", "a page whose attribute is shared")
def _range_not_private(bench: SnpBench) -> None:
    bench.machine.set_shared(0, PAGE_SIZE)
    bench.update(0, 1, bench.source("aligned", 1))


@snp_scenario("snp.range.partly_private", "four pages, the third shared")
def _range_partly_private(bench: SnpBench) -> None:
    bench.machine.set_shared(2 * PAGE_SIZE, PAGE_SIZE)
    source = bench.source("aligned", 4)
    bench.update(0, 4, source)
    bench.update(2, 2, source.address + 2 * PAGE_SIZE)
    bench.machine.set_private(2 * PAGE_SIZE, PAGE_SIZE)
    bench.update(2, 2, source.address + 2 * PAGE_SIZE)


@snp_scenario("snp.range.attribute_never_set", "pages whose attributes were never set")
def _range_attribute_never_set(bench: SnpBench) -> None:
    bench.make().snp.launch_start()
    bench.update(0, 1, bench.source("aligned", 1))


@snp_scenario("snp.range.populated", "a page that was populated before")
def _range_populated(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    bench.update(0, 1, source)
    bench.update(0, 1, source)


@snp_scenario("snp.range.partly_populated", "four pages, the third populated before")
def _range_partly_populated(bench: SnpBench) -> None:
    source = bench.source("aligned", 4)
    bench.update(2, 1, source)
    bench.update(0, 4, source)
    bench.update(2, 2, source)
    bench.update(3, 1, source)


@snp_scenario("snp.range.no_slot", "a gfn that no memslot holds")
def _range_no_slot(bench: SnpBench) -> None:
    bench.update(SLOT_PAGES + 100, 1, bench.source("aligned", 1))


@snp_scenario("snp.range.gfn_huge", "gfns far beyond any guest address")
def _range_gfn_huge(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for shift in (40, 51, 63):
        bench.update(1 << shift, 1, source)


@snp_scenario("snp.range.past_slot_end", "a range that runs past its slot's end")
def _range_past_slot_end(bench: SnpBench) -> None:
    source = bench.source("aligned", 4)
    bench.update(SLOT_PAGES - 2, 4, source)
    bench.update(SLOT_PAGES, 2, source.address + 2 * PAGE_SIZE)


@snp_scenario("snp.range.slot_end", "the slot's last page alone")
def _range_slot_end(bench: SnpBench) -> None:
    bench.update(SLOT_PAGES - 1, 1, bench.source("aligned", 1))


@snp_scenario("snp.range.two_slots", "a range over two adjacent slots")
def _range_two_slots(bench: SnpBench) -> None:
    machine = bench.machine
    second = machine.create_guest_memfd(4 * PAGE_SIZE)
    machine.own(second)
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region2(
        1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address, lib.KVM_MEM_GUEST_MEMFD, second
    )
    machine.set_private(gpa, 4 * PAGE_SIZE)
    source = bench.source("aligned", 4)
    bench.update(SLOT_PAGES - 2, 4, source)
    bench.update(SLOT_PAGES, 2, source.address + 2 * PAGE_SIZE)


@snp_scenario("snp.range.slot_without_guest_memfd", "a memslot without a guest_memfd")
def _range_plain_slot(bench: SnpBench) -> None:
    machine = bench.machine
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region(1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address)
    machine.set_private(gpa, 4 * PAGE_SIZE)
    bench.update(SLOT_PAGES, 1, bench.source("aligned", 1))


@snp_scenario("snp.range.whole_slot", "the whole slot in one call")
def _range_whole_slot(bench: SnpBench) -> None:
    bench.update(0, SLOT_PAGES, bench.source("aligned", SLOT_PAGES))


@snp_scenario("snp.range.punched", "a populated page punched out of the guest_memfd, then again")
def _range_punched(bench: SnpBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    source = bench.source("aligned", 4)
    bench.update(0, 4, source)
    bench.command("punch pages 1 and 2", guest_memfd.try_.punch_hole(PAGE_SIZE, 2 * PAGE_SIZE))
    bench.update(1, 2, source)
    bench.update(0, 1, source)


@snp_scenario("snp.range.flipped", "a populated page made shared and private again, then again")
def _range_flipped(bench: SnpBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 2)
    bench.update(0, 2, source)
    bench.command("make page 1 shared", machine.try_.set_memory_attributes(PAGE_SIZE, PAGE_SIZE, 0))
    bench.update(1, 1, source)
    private = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
    bench.command(
        "make page 1 private", machine.try_.set_memory_attributes(PAGE_SIZE, PAGE_SIZE, private)
    )
    bench.update(1, 1, source)


@snp_scenario("snp.range.slot_deleted", "the memslot deleted before the call")
def _range_slot_deleted(bench: SnpBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    bench.update(0, 1, source)
    slot = machine.slots[0]
    result = machine.try_.set_user_memory_region2(
        0, 0, 0, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
    )
    bench.command("delete the slot", result)
    bench.update(1, 1, source)


@snp_scenario(
    "snp.range.slot_again", "a populated page's slot deleted, made again, populated again"
)
def _range_slot_again(bench: SnpBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    slot = machine.slots[0]
    bench.update(0, 1, source)
    for size in (0, slot.size):
        machine.set_user_memory_region2(
            0, 0, size, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
        )
    bench.update(0, 1, source)
    bench.update(1, 1, source)


@snp_scenario("snp.range.fd_closed", "the guest_memfd's fd closed before the call")
def _range_fd_closed(bench: SnpBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    guest_memfd.close(let_go=True)
    bench.update(0, 1, bench.source("aligned", 1))


# ------------------------------------------------------------------ CPUID pages


@snp_scenario("snp.cpuid.rejected", "a CPUID page with a wrong value; then the corrected page")
def _cpuid_rejected(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("aligned", 1, page)
    bench.update(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "corrected" if source.page(0) != page else "unchanged")
    bench.update(0, 1, source, PageType.CPUID)


@snp_scenario("snp.cpuid.malformed", "a CPUID page that claims more functions than fit")
def _cpuid_malformed(bench: SnpBench) -> None:
    source = bench.source("aligned", 1, _CPUID_MALFORMED)
    bench.update(0, 1, source, PageType.CPUID)
    bench.fact(
        "the source page", "corrected" if source.page(0) != _CPUID_MALFORMED else "unchanged"
    )


@snp_scenario("snp.cpuid.rejected_in_range", "the second of two CPUID pages is the bad one")
def _cpuid_rejected_in_range(bench: SnpBench) -> None:
    source = bench.source("aligned", 2, _CPUID_EMPTY + _CPUID_WRONG)
    bench.update(0, 2, source, PageType.CPUID)
    bench.fact("the second page", "corrected" if source.page(1) != _CPUID_WRONG else "unchanged")
    bench.update(1, 1, source.address + PAGE_SIZE, PageType.CPUID)


@snp_scenario("snp.cpuid.rejected_unaligned", "a bad CPUID page from an unaligned source")
def _cpuid_rejected_unaligned(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("unaligned", 1, page)
    bench.update(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "corrected" if source.page(0) != page else "unchanged")


@snp_scenario("snp.cpuid.rejected_readonly", "a bad CPUID page in read-only memory")
def _cpuid_rejected_readonly(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("readonly", 1, page)
    bench.update(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "overwritten" if source.page(0) != page else "unchanged")


@snp_scenario("snp.cpuid.rejected_file", "a bad CPUID page in a file mapping: dirtied with the fix")
def _cpuid_rejected_file(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("file_shared", 1, page)
    bench.update(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "corrected" if source.page(0) != page else "unchanged")


# ------------------------------------------------------------------ the launch's states


@snp_scenario("snp.state.before_init2", "every command before KVM_SEV_INIT2")
def _state_before_init2(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    machine.set_private(0, PAGE_SIZE)
    bench.command("LAUNCH_START", machine.try_.snp.launch_start())
    bench.update(0, 1, bench.source("aligned", 1))
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.second_init2", "KVM_SEV_INIT2 twice")
def _state_second_init2(bench: SnpBench) -> None:
    bench.command("KVM_SEV_INIT2", bench.make().try_.snp.init2())


@snp_scenario("snp.state.init2_after_vcpu", "KVM_SEV_INIT2 after a vCPU was created")
def _state_init2_after_vcpu(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    created = machine.try_.create_vcpu(0)
    if created.value is not None:
        machine.own(created.value)
    bench.command("KVM_CREATE_VCPU", created)
    bench.command("KVM_SEV_INIT2", machine.try_.snp.init2())


@snp_scenario("snp.state.init2_arguments", "KVM_SEV_INIT2 with values out of range")
def _state_init2_arguments(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    bench.command("flags 1", machine.try_.snp.init2(flags=1))
    bench.command("VMSA feature 63", machine.try_.snp.init2(vmsa_features=1 << 63))
    bench.command("GHCB version 1", machine.try_.snp.init2(ghcb_version=1))
    bench.command("GHCB version 3", machine.try_.snp.init2(ghcb_version=3))
    bench.command("GHCB version 2", machine.try_.snp.init2(ghcb_version=2))


@snp_scenario("snp.state.before_start", "LAUNCH_UPDATE and LAUNCH_FINISH before LAUNCH_START")
def _state_before_start(bench: SnpBench) -> None:
    machine = bench.make()
    machine.set_private(0, PAGE_SIZE)
    bench.update(0, 1, bench.source("aligned", 1))
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.second_start", "LAUNCH_START twice")
def _state_second_start(bench: SnpBench) -> None:
    bench.command("LAUNCH_START", bench.machine.try_.snp.launch_start())
    bench.update(0, 1, bench.source("aligned", 1))


@snp_scenario("snp.state.start_arguments", "LAUNCH_START with policies and flags it does not take")
def _state_start_arguments(bench: SnpBench) -> None:
    machine = bench.make()
    start = machine.try_.snp.launch_start
    bench.command("policy 0", start(0))
    bench.command("without the bit that must be one", start(SnpPolicy.SMT))
    bench.command("a bit beyond the policy's", start(DEFAULT_POLICY | 1 << 40))
    bench.command("flags 1", start(flags=1))
    bench.command("a good one after these", start())


@snp_scenario(
    "snp.state.start_without_smt", "a policy that forbids SMT, on a machine that has it", "standin"
)
def _state_start_without_smt(bench: SnpBench) -> None:
    start = bench.make().try_.snp.launch_start
    bench.command("LAUNCH_START", start(SnpPolicy.RESERVED_MUST_BE_ONE))


@snp_scenario("snp.state.after_finish", "LAUNCH_UPDATE after LAUNCH_FINISH")
def _state_after_finish(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    bench.update(0, 1, source)
    bench.command("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.update(1, 1, source)
    bench.update(0, 1, source)


@snp_scenario("snp.state.second_finish", "LAUNCH_FINISH twice, on a VM without vCPUs")
def _state_second_finish(bench: SnpBench) -> None:
    bench.command("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.command("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())


@snp_scenario(
    "snp.state.second_finish_vcpu",
    "LAUNCH_FINISH twice on a VM with a vCPU: fixed in 7.0.1, an oops in the RMP before",
    destructive=True,
)
def _state_second_finish_vcpu(bench: SnpBench) -> None:
    machine = bench.machine
    bench.vcpu().unwrap()
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.finish_arguments", "LAUNCH_FINISH with flags, then without")
def _state_finish_arguments(bench: SnpBench) -> None:
    finish = bench.machine.try_.snp.launch_finish
    bench.command("flags 1", finish(flags=1))
    bench.command("none", finish(host_data=b"host data", vcek_disabled=True))


@snp_scenario("snp.state.start_after_finish", "LAUNCH_START after LAUNCH_FINISH")
def _state_start_after_finish(bench: SnpBench) -> None:
    bench.machine.snp.launch_finish()
    bench.command("LAUNCH_START", bench.machine.try_.snp.launch_start())


@snp_scenario("snp.state.vcpu_before_finish", "a vCPU before FINISH: its VMSA is measured")
def _state_vcpu_before_finish(bench: SnpBench) -> None:
    machine = bench.machine
    bench.command("KVM_CREATE_VCPU", bench.vcpu())
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.vcpu_registers_after_finish", "registers of a vCPU after FINISH")
def _state_registers_after_finish(bench: SnpBench) -> None:
    machine = bench.machine
    vcpu = bench.vcpu().unwrap()
    bench.command("KVM_GET_REGS before", vcpu.try_.get_regs())
    machine.snp.launch_finish()
    bench.command("KVM_GET_REGS after", vcpu.try_.get_regs())
    bench.command("KVM_GET_SREGS after", vcpu.try_.get_sregs())


@snp_scenario("snp.state.vcpu_after_finish", "a vCPU created after FINISH")
def _state_vcpu_after_finish(bench: SnpBench) -> None:
    machine = bench.machine
    machine.snp.launch_finish()
    bench.command("KVM_CREATE_VCPU", bench.vcpu())


@snp_scenario("snp.state.foreign_commands", "commands of SEV and SEV-ES on an SNP VM")
def _state_foreign_commands(bench: SnpBench) -> None:
    command = bench.machine.try_.snp.command
    bench.command("KVM_SEV_LAUNCH_START", command(lib.KVM_SEV_LAUNCH_START))
    bench.command("KVM_SEV_GUEST_STATUS", command(lib.KVM_SEV_GUEST_STATUS))
    bench.command("KVM_SEV_INIT", command(lib.KVM_SEV_INIT))


@snp_scenario("snp.state.unknown_command", "sub-command numbers nobody has")
def _state_unknown_command(bench: SnpBench) -> None:
    command = bench.machine.try_.snp.command
    bench.command("99", command(99))
    bench.command("200", command(200))
    bench.command("0xffffffff", command(0xFFFFFFFF))


@snp_scenario("snp.state.bad_pointers", "pointers to parameters that are not there")
def _state_bad_pointers(bench: SnpBench) -> None:
    machine = bench.machine
    for name in ("START", "UPDATE", "FINISH"):
        number = int(getattr(lib, f"KVM_SEV_SNP_LAUNCH_{name}"))
        bench.command(f"LAUNCH_{name}", machine.try_.snp.raw_command(number, 0x10))


@snp_scenario("snp.state.req_certs", "KVM_SEV_SNP_ENABLE_REQ_CERTS (7.0), before and after a vCPU")
def _state_req_certs(bench: SnpBench) -> None:
    machine = bench.make()
    bench.command("before", machine.try_.snp.enable_req_certs())
    bench.vcpu().unwrap()
    bench.command("after", machine.try_.snp.enable_req_certs())


@snp_scenario("snp.state.default_vm", "a launch command on a default VM")
def _state_default_vm(bench: SnpBench) -> None:
    with bench.kvm.create_vm() as plain:
        command = ffi.new("struct kvm_sev_cmd *")
        command.id = lib.KVM_SEV_SNP_LAUNCH_START
        bench.step("LAUNCH_START", plain.try_.memory_encrypt_op(command))
        command.id = lib.KVM_SEV_SNP_LAUNCH_UPDATE
        bench.step("LAUNCH_UPDATE", plain.try_.memory_encrypt_op(command))


# ------------------------------------------------------------------ firmware errors


@snp_scenario("snp.firmware.nth_page", "the firmware refuses the third of four pages", "standin")
def _firmware_nth_page(bench: SnpBench) -> None:
    source = bench.source("aligned", 4)
    _ = bench.machine  # made first: its own commands are not what is to fail
    standin.inject(_CMD_LAUNCH_UPDATE, _INVALID_PAGE_STATE, after=2)
    bench.update(0, 4, source)
    bench.update(2, 2, source.address + 2 * PAGE_SIZE)


@snp_scenario("snp.firmware.first_page", "the firmware refuses the first page", "standin")
def _firmware_first_page(bench: SnpBench) -> None:
    source = bench.source("aligned", 2)
    _ = bench.machine
    standin.inject(_CMD_LAUNCH_UPDATE, _INVALID_PAGE_STATE)
    bench.update(0, 2, source)
    bench.update(0, 2, source)


@snp_scenario("snp.firmware.start", "the firmware refuses LAUNCH_START", "standin")
def _firmware_start(bench: SnpBench) -> None:
    machine = bench.make()
    standin.inject(_CMD_LAUNCH_START, _RESOURCE_LIMIT)
    bench.command("LAUNCH_START", machine.try_.snp.launch_start())
    bench.command("LAUNCH_START again", machine.try_.snp.launch_start())


@snp_scenario("snp.firmware.gctx_create", "the firmware creates no guest context", "standin")
def _firmware_gctx_create(bench: SnpBench) -> None:
    machine = bench.make()
    standin.inject(_CMD_GCTX_CREATE, _RESOURCE_LIMIT)
    bench.command("LAUNCH_START", machine.try_.snp.launch_start())
    bench.command("LAUNCH_START again", machine.try_.snp.launch_start())


@snp_scenario("snp.firmware.activate", "the firmware does not bind the ASID", "standin")
def _firmware_activate(bench: SnpBench) -> None:
    machine = bench.make()
    standin.inject(_CMD_ACTIVATE, _RESOURCE_LIMIT)
    bench.command("LAUNCH_START", machine.try_.snp.launch_start())
    bench.command("LAUNCH_START again", machine.try_.snp.launch_start())


@snp_scenario("snp.firmware.finish", "the firmware refuses LAUNCH_FINISH; a retry", "standin")
def _firmware_finish(bench: SnpBench) -> None:
    machine = bench.machine
    standin.inject(_CMD_LAUNCH_FINISH, _RESOURCE_LIMIT)
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())
    bench.command("LAUNCH_FINISH again", machine.try_.snp.launch_finish())


@snp_scenario("snp.firmware.vmsa", "the firmware refuses the vCPU's VMSA in FINISH", "standin")
def _firmware_vmsa(bench: SnpBench) -> None:
    machine = bench.machine
    bench.vcpu().unwrap()
    standin.inject(_CMD_LAUNCH_UPDATE, _RESOURCE_LIMIT)
    bench.command("LAUNCH_FINISH", machine.try_.snp.launch_finish())


# ------------------------------------------------------------------ pre-fault


def _pre_fault(bench: SnpBench, *, finished: bool) -> None:
    machine = bench.machine
    vcpu = bench.vcpu().unwrap()
    bench.update(0, 2, bench.source("aligned", 2))
    if finished:
        machine.snp.launch_finish()
    bench.pre_fault(vcpu, 0, 4)
    if not finished:
        bench.update(2, 2, bench.source("aligned", 2))


@snp_scenario("snp.prefault.before_finish", "KVM_PRE_FAULT_MEMORY before FINISH", "pre_fault")
def _prefault_before_finish(bench: SnpBench) -> None:
    _pre_fault(bench, finished=False)


@snp_scenario("snp.prefault.after_finish", "KVM_PRE_FAULT_MEMORY after FINISH", "pre_fault")
def _prefault_after_finish(bench: SnpBench) -> None:
    _pre_fault(bench, finished=True)


# ------------------------------------------------------------------ races and signals


def _populate_at_once(bench: SnpBench, threads: int) -> None:
    """Every thread populates the whole slot, going on past what another has done."""
    machine = bench.machine
    source = bench.source("aligned", SLOT_PAGES)
    barrier = threading.Barrier(threads)
    populated: list[int] = []
    calls: list[Result[Any]] = []

    def body() -> None:
        barrier.wait(10)
        gfn = 0
        while gfn < SLOT_PAGES:
            result = machine.try_.snp.launch_update(
                gfn * PAGE_SIZE,
                (SLOT_PAGES - gfn) * PAGE_SIZE,
                source=source.address + gfn * PAGE_SIZE,
                type=PageType.NORMAL,
            )
            assert result.written_back is not None
            reached = result.written_back[0] // PAGE_SIZE
            populated.extend(range(gfn, reached))
            calls.append(result)
            gfn = reached if result.ok else gfn + 1

    workers = [threading.Thread(target=body) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    bench.populated_once(populated)
    bench.tally("calls", calls)


@snp_scenario("snp.race.two_threads", "two threads populate the same range", "two_cpus")
def _race_two_threads(bench: SnpBench) -> None:
    _populate_at_once(bench, 2)


@snp_scenario("snp.race.four_threads", "four threads populate the same range", "two_cpus")
def _race_four_threads(bench: SnpBench) -> None:
    _populate_at_once(bench, 4)


@snp_scenario(
    "snp.race.punch", "one thread populates, another punches holes in the same range", "two_cpus"
)
def _race_punch(bench: SnpBench) -> None:
    machine = bench.machine
    guest_memfd = machine.slots[0].guest_memfd
    assert guest_memfd is not None
    source = bench.source("aligned", SLOT_PAGES)
    size = SLOT_PAGES * PAGE_SIZE
    punches: list[Result[int]] = []
    with meanwhile(lambda: punches.append(guest_memfd.try_.punch_hole(0, size))):
        updates = [bench.try_update(0, SLOT_PAGES, source) for _ in range(20)]
    bench.tally("updates", updates)
    bench.tally("punches", punches)
    bench.command("a last punch", guest_memfd.try_.punch_hole(0, SLOT_PAGES * PAGE_SIZE))
    bench.update(0, SLOT_PAGES, source)


@snp_scenario(
    "snp.race.attributes", "one thread populates, another flips the range's attributes", "two_cpus"
)
def _race_attributes(bench: SnpBench) -> None:
    machine = bench.machine
    size = SLOT_PAGES * PAGE_SIZE
    source = bench.source("aligned", SLOT_PAGES)
    attributes = itertools.cycle((0, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE))
    flips: list[Result[int]] = []
    with meanwhile(
        lambda: flips.append(machine.try_.set_memory_attributes(0, size, next(attributes)))
    ):
        updates = [bench.try_update(0, SLOT_PAGES, source) for _ in range(20)]
    bench.tally("updates", updates)
    bench.tally("flips", flips)


@snp_scenario("snp.race.signal", "a signal is pending while a range is populated")
def _race_signal(bench: SnpBench) -> None:
    """Signals rain on the thread inside LAUNCH_UPDATE: progress is kept, whatever errno comes."""
    machine = bench.machine
    source = bench.source("aligned", SLOT_PAGES)
    calls: list[Result[Any]] = []
    main = threading.get_ident()

    def rain() -> None:
        signal.pthread_kill(main, signal.SIGURG)
        time.sleep(0.0005)

    # SIGURG is ignored by default, and an ignored signal is never pending: it needs a handler.
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    gfn = 0
    try:
        with meanwhile(rain):
            while gfn < SLOT_PAGES and len(calls) < 10_000:
                result = machine.try_.snp.launch_update(
                    gfn * PAGE_SIZE,
                    (SLOT_PAGES - gfn) * PAGE_SIZE,
                    source=source.address + gfn * PAGE_SIZE,
                    type=PageType.NORMAL,
                )
                assert result.written_back is not None
                gfn = result.written_back[0] // PAGE_SIZE
                calls.append(result)
    finally:
        signal.signal(signal.SIGURG, before)
    bench.fact("populated", f"{gfn} of {SLOT_PAGES}")
    bench.tally("calls while signals rain", calls)


@snp_scenario(
    "snp.race.vcpu_create_finish",
    "vCPUs are created while FINISH runs (fixed in 7.0.1)",
    "two_cpus",
    destructive=True,
)
def _race_vcpu_create(bench: SnpBench) -> None:
    for _ in range(8):
        with bench.stack.pop_all():
            pass
        machine = bench.make()
        machine.snp.launch_start()
        barrier = threading.Barrier(2)

        def create(machine: Any = machine, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            for number in range(4):
                created = machine.try_.create_vcpu(number)
                if created.value is not None:
                    machine.own(created.value)

        worker = threading.Thread(target=create)
        worker.start()
        barrier.wait(10)
        machine.try_.snp.launch_finish()
        worker.join(30)
    bench.fact("the kernel", "survived")


# ------------------------------------------------------------------ the end


@snp_scenario("snp.end.closed_populated", "the VM closed in the middle of a launch", "standin")
def _end_closed(bench: SnpBench) -> None:
    before = standin.rmp_counts()
    source = bench.source("aligned", SLOT_PAGES)
    bench.update(0, SLOT_PAGES, source)
    bench.machine.close()
    after = standin.wait_for_counts(before, 2)
    note = f"{before} before, {after} after"
    bench.fact("the RMP", "as before" if after == before else "changed", note)


@snp_scenario("snp.end.asid_reuse", "36 VMs in a row: more than an emulated host has ASIDs")
def _end_asid_reuse(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    results = []
    for _ in range(int(os.environ.get("KVMHARNESS_ASID_ROUNDS", "36"))):
        machine = bench.make()
        machine.set_private(0, PAGE_SIZE)
        machine.snp.launch_start()
        results.append(bench.try_update(0, 1, source))
        machine.close()
    bench.tally("the first page of each", results)
