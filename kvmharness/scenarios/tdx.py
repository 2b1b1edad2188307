# SPDX-License-Identifier: MIT
"""The TDX scenarios: sources, ranges, the launch's states, the module's failures, races.

What each gives on which kernel is in contract/tdx.toml; here is only what is tried.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, PROT_READ, map_memory
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.result import Result
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.source import SourceBuffer
from kvmharness.launch.tdx import CpuidEntry, TdAttributes, Tdx, cpuid2, cpuid_entries, start_td
from kvmharness.launch.tdx_status import status_code
from kvmharness.scenarios.populate_bench import SLOT_PAGES
from kvmharness.scenarios.races import meanwhile
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.tdx_bench import TdxBench, tdx_scenario
from kvmharness.standins import tdx as tdx_standin
from kvmharness.standins.tdx import Seamcall

#: The bit of a guest address that says shared: above it where guests have 48 bits, and 52.
_SHARED_48 = 1 << 47
_SHARED_52 = 1 << 51

_OPERAND_BUSY = status_code("OPERAND_BUSY", "TDR")
_NO_ENTROPY = status_code("RND_NO_ENTROPY")
#: The kernel asks again so often for entropy (RDRAND_RETRY_LOOPS) before it gives up.
_ENTROPY_RETRIES = 10


def _configured(bench: TdxBench, vm: Vm, bits: int = 48) -> list[CpuidEntry]:
    """The CPUID for INIT_VM, with guest addresses of `bits` bits."""
    supported = cpuid_entries(bench.kvm.get_supported_cpuid())
    return Tdx(vm).capabilities().configure(supported, bits)


# ------------------------------------------------------------------ sources


def _try_source(bench: TdxBench, kind: str, *, measure: bool) -> None:
    bench.region(0, 4, bench.source(kind, 4), measure=measure)


for _kind in SOURCE_KINDS.values():
    tdx_scenario(f"tdx.source.{_kind.name}", f"measured, from {_kind.summary}", *_kind.needs)(
        functools.partial(_try_source, kind=_kind.name, measure=True)
    )
    tdx_scenario(f"tdx.unmeasured.{_kind.name}", f"unmeasured, from {_kind.summary}", *_kind.needs)(
        functools.partial(_try_source, kind=_kind.name, measure=False)
    )


@tdx_scenario("tdx.source.wraps", "a source that runs past the end of the address space")
def _source_wraps(bench: TdxBench) -> None:
    bench.region(0, 2, (1 << 64) - PAGE_SIZE)


@tdx_scenario("tdx.source.order", "a shared page from no source: which of the two is noticed first")
def _source_order(bench: TdxBench) -> None:
    bench.machine.set_shared(0, PAGE_SIZE)
    bench.region(0, 1, bench.source("unmapped", 1))
    bench.region(0, 1, None)


@tdx_scenario(
    "tdx.source.guest_memfd",
    "the mapping of another TD's guest_memfd, of which nothing is shared",
    "mappable_guest_memfd",
)
def _source_guest_memfd(bench: TdxBench) -> None:
    with (
        bench.kvm.create_vm(VmType.TDX) as other,
        other.create_guest_memfd(2 * PAGE_SIZE, lib.GUEST_MEMFD_FLAG_MMAP) as guest_memfd,
        guest_memfd.mmap() as mapping,
    ):
        bench.region(0, 2, mapping.address)


@tdx_scenario(
    "tdx.inplace.same_guest_memfd",
    "the TD's own guest_memfd, mapped, as the source of itself",
    "mappable_guest_memfd",
)
def _source_same_guest_memfd(bench: TdxBench) -> None:
    machine = bench.machine
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
    bench.region(SLOT_PAGES, 2, mapping.address)


@tdx_scenario(
    "tdx.inplace.init_shared",
    "a guest_memfd of the TD that begins shared",
    "mappable_guest_memfd",
)
def _inplace_init_shared(bench: TdxBench) -> None:
    machine = bench.machine
    flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
    created = machine.try_.create_guest_memfd(2 * PAGE_SIZE, flags)
    if created.value is not None:
        machine.own(created.value)
    bench.command("KVM_CREATE_GUEST_MEMFD with INIT_SHARED", created)


@tdx_scenario("tdx.inplace.null_source", "NULL as the source of a range never written")
def _inplace_null(bench: TdxBench) -> None:
    bench.region(0, 2, None)
    bench.region(0, 2, bench.source("aligned", 2))


@tdx_scenario(
    "tdx.inplace.attributes2", "KVM_SET_MEMORY_ATTRIBUTES2 on the TD's guest_memfd (queued for 7.4)"
)
def _inplace_attributes2(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    bench.command(
        "KVM_SET_MEMORY_ATTRIBUTES2",
        guest_memfd.try_.set_memory_attributes2(0, PAGE_SIZE, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE),
    )


@tdx_scenario("tdx.source.changed_after", "the source changes after the call", "standin")
def _source_changed_after(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    before = tdx_standin.mrtd()
    source.mapping.fill(0, PAGE_SIZE, 0xFF)
    bench.fact("MRTD", "same" if tdx_standin.mrtd() == before else "changed")


@tdx_scenario("tdx.measure.mixed", "measured and unmeasured pages, in calls of one page and more")
def _measure_mixed(bench: TdxBench) -> None:
    source = bench.source("aligned", 8)
    bench.region(8, 2, source)
    bench.region(0, 3, source, measure=False)
    bench.region(3, 1, source.address + 3 * PAGE_SIZE)
    bench.region(4, 2, source.address + 4 * PAGE_SIZE, measure=False)
    bench.command("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.measure.registers", "INIT_VM's three registers, which MRTD does not contain")
def _measure_registers(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    start_td(
        machine,
        bench.kvm,
        mrconfigid=b"\x11" * 48,
        mrowner=b"\x22" * 48,
        mrownerconfig=b"\x33" * 48,
        attributes=TdAttributes.SEPT_VE_DISABLE,
    )
    bench.ready(machine)
    bench.region(0, 2, bench.source("aligned", 2))
    bench.command("FINALIZE_VM", machine.try_.tdx.finalize_vm())


# ------------------------------------------------------------------ numbers of pages and flags


@tdx_scenario("tdx.pages.zero", "no pages")
def _pages_zero(bench: TdxBench) -> None:
    bench.region(0, 0, bench.source("aligned", 1))


@tdx_scenario("tdx.pages.two_to_52", "2^52 pages: in bytes that is 0 again")
def _pages_two_to_52(bench: TdxBench) -> None:
    bench.region(0, 1 << 52, bench.source("aligned", 4))


@tdx_scenario(
    "tdx.pages.past_two_to_52", "2^52 + 2 pages, which the check of the range takes for 2"
)
def _pages_past_two_to_52(bench: TdxBench) -> None:
    # The source ends after four pages; a kernel that believes in 2 would stop before that.
    bench.region(0, (1 << 52) + 2, bench.source("hole", 8))


@tdx_scenario("tdx.pages.huge", "2^40 and 2^64 - 1 pages: the range reaches into shared addresses")
def _pages_huge(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    bench.region(0, 1 << 40, source)
    bench.region(0, (1 << 64) - 1, source)


@tdx_scenario("tdx.flags.unknown", "flags that the uAPI does not have")
def _flags_unknown(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for bit in (1, 7, 31):
        bench.region(0, 1, source, flags=1 << bit)
    bench.region(0, 1, source, flags=lib.KVM_TDX_MEASURE_MEMORY_REGION | 1 << 1)


@tdx_scenario("tdx.hw_error.nonzero", "hw_error not 0 on input, with every command")
def _hw_error_nonzero(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    command = machine.try_.tdx.command
    bench.command("CAPABILITIES", command(lib.KVM_TDX_CAPABILITIES, hw_error=1))
    bench.command("INIT_VM", command(lib.KVM_TDX_INIT_VM, hw_error=1))
    start_td(machine, bench.kvm)
    bench.ready(machine, initialize_vcpus=False)
    of_vcpu = machine.tdx_vcpu().try_.command
    bench.command("GET_CPUID", of_vcpu(lib.KVM_TDX_GET_CPUID, hw_error=1))
    bench.command("INIT_VCPU", of_vcpu(lib.KVM_TDX_INIT_VCPU, hw_error=1))
    machine.tdx_vcpu().init_vcpu()
    bench.region(0, 1, bench.source("aligned", 1), hw_error=1)
    bench.command("FINALIZE_VM", command(lib.KVM_TDX_FINALIZE_VM, hw_error=1 << 63))


# ------------------------------------------------------------------ ranges


@tdx_scenario("tdx.range.gpa_unaligned", "guest addresses that no page begins at")
def _range_gpa_unaligned(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for gpa in (1, PAGE_SIZE // 2, PAGE_SIZE - 1):
        bench.region(0, 1, source, gpa=gpa)


@tdx_scenario("tdx.range.wraps", "a range that runs past the end of 64-bit addresses")
def _range_wraps(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    bench.region(0, 1, source, gpa=(1 << 64) - PAGE_SIZE)
    bench.region(0, 2, source, gpa=(1 << 64) - PAGE_SIZE)


@tdx_scenario("tdx.range.shared_gpa", "guest addresses with the shared bit, and above it")
def _range_shared_gpa(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for gpa in (_SHARED_48, _SHARED_48 | PAGE_SIZE, _SHARED_48 << 1):
        bench.region(0, 1, source, gpa=gpa)


@tdx_scenario("tdx.range.into_shared_gpa", "a range whose second page has the shared bit")
def _range_into_shared_gpa(bench: TdxBench) -> None:
    bench.region(0, 2, bench.source("aligned", 2), gpa=_SHARED_48 - PAGE_SIZE)


@tdx_scenario("tdx.range.not_private", "a page whose attribute is shared")
def _range_not_private(bench: TdxBench) -> None:
    bench.machine.set_shared(0, PAGE_SIZE)
    bench.region(0, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.range.partly_private", "four pages, the third shared")
def _range_partly_private(bench: TdxBench) -> None:
    bench.machine.set_shared(2 * PAGE_SIZE, PAGE_SIZE)
    source = bench.source("aligned", 4)
    bench.region(0, 4, source)
    bench.machine.set_private(2 * PAGE_SIZE, PAGE_SIZE)
    bench.region(2, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.range.attribute_never_set", "pages whose attributes were never set")
def _range_attribute_never_set(bench: TdxBench) -> None:
    bench.make().tdx_vcpu().init_vcpu()
    bench.region(0, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.range.populated", "a page that was added before")
def _range_populated(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    bench.region(0, 1, source)
    bench.region(0, 1, source, measure=False)


@tdx_scenario("tdx.range.partly_populated", "four pages, the third added before")
def _range_partly_populated(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    bench.region(2, 1, source)
    bench.region(0, 4, source)
    bench.region(3, 1, source.address + 3 * PAGE_SIZE)


@tdx_scenario("tdx.range.no_slot", "a gfn that no memslot holds, though it is private")
def _range_no_slot(bench: TdxBench) -> None:
    bench.machine.set_private((SLOT_PAGES + 100) * PAGE_SIZE, PAGE_SIZE)
    bench.region(SLOT_PAGES + 100, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.range.past_slot_end", "a range that runs past its slot's end")
def _range_past_slot_end(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    bench.region(SLOT_PAGES - 2, 4, source)
    bench.region(SLOT_PAGES, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.range.slot_end", "the slot's last page alone")
def _range_slot_end(bench: TdxBench) -> None:
    bench.region(SLOT_PAGES - 1, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.range.two_slots", "a range over two adjacent slots")
def _range_two_slots(bench: TdxBench) -> None:
    machine = bench.machine
    second = machine.create_guest_memfd(4 * PAGE_SIZE)
    machine.own(second)
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region2(
        1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address, lib.KVM_MEM_GUEST_MEMFD, second
    )
    machine.set_private(gpa, 4 * PAGE_SIZE)
    bench.region(SLOT_PAGES - 2, 4, bench.source("aligned", 4))


@tdx_scenario("tdx.range.slot_without_guest_memfd", "a memslot without a guest_memfd")
def _range_plain_slot(bench: TdxBench) -> None:
    machine = bench.machine
    gpa = SLOT_PAGES * PAGE_SIZE
    machine.set_user_memory_region(1, gpa, 4 * PAGE_SIZE, machine.slots[0].mapping.address)
    machine.set_private(gpa, 4 * PAGE_SIZE)
    bench.region(SLOT_PAGES, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.range.whole_slot", "the whole slot in one call")
def _range_whole_slot(bench: TdxBench) -> None:
    bench.region(0, SLOT_PAGES, bench.source("aligned", SLOT_PAGES))


@tdx_scenario("tdx.range.punched", "added pages punched out of the guest_memfd, then again")
def _range_punched(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    source = bench.source("aligned", 4)
    bench.region(0, 4, source)
    bench.command("punch pages 1 and 2", guest_memfd.try_.punch_hole(PAGE_SIZE, 2 * PAGE_SIZE))
    bench.region(1, 2, source)
    bench.region(0, 1, source)


@tdx_scenario(
    "tdx.range.punched_finalized",
    "a page punched out after FINALIZE_VM, then pre-faulted",
    "pre_fault",
)
def _range_punched_finalized(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    bench.region(0, 2, bench.source("aligned", 2))
    bench.machine.tdx.finalize_vm()
    bench.command("punch page 1", guest_memfd.try_.punch_hole(PAGE_SIZE, PAGE_SIZE))
    vcpu = bench.machine.vcpus[0]
    bench.command("pre-fault page 1", vcpu.try_.pre_fault_memory(PAGE_SIZE, PAGE_SIZE))
    bench.command("punch page 1 again", guest_memfd.try_.punch_hole(PAGE_SIZE, PAGE_SIZE))


@tdx_scenario("tdx.range.flipped", "an added page made shared and private again, then again")
def _range_flipped(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 2)
    bench.region(0, 2, source)
    bench.command("make page 1 shared", machine.try_.set_memory_attributes(PAGE_SIZE, PAGE_SIZE, 0))
    bench.region(1, 1, source)
    private = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
    bench.command(
        "make page 1 private", machine.try_.set_memory_attributes(PAGE_SIZE, PAGE_SIZE, private)
    )
    bench.region(1, 1, source)


@tdx_scenario("tdx.range.slot_deleted", "the memslot deleted before the call")
def _range_slot_deleted(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    slot = machine.slots[0]
    result = machine.try_.set_user_memory_region2(
        0, 0, 0, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
    )
    bench.command("delete the slot", result)
    bench.region(1, 1, source)


@tdx_scenario("tdx.range.slot_again", "an added page's slot deleted, made again, populated again")
def _range_slot_again(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    slot = machine.slots[0]
    bench.region(0, 1, source)
    for size in (0, slot.size):
        machine.set_user_memory_region2(
            0, 0, size, slot.mapping.address, lib.KVM_MEM_GUEST_MEMFD, slot.guest_memfd
        )
    bench.region(0, 1, source)
    bench.region(1, 1, source)


@tdx_scenario("tdx.range.fd_closed", "the guest_memfd's fd closed before the call")
def _range_fd_closed(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    guest_memfd.close(let_go=True)
    bench.region(0, 1, bench.source("aligned", 1))


@tdx_scenario(
    "tdx.range.52_bits",
    "2^36 pages, which reach bit 47: in a TD of 48-bit addresses, of 52-bit ones",
)
def _range_52_bits(bench: TdxBench) -> None:
    for bits, shared in ((48, _SHARED_48), (52, _SHARED_52)):
        machine = bench.make_ready(guest_address_bits=bits)
        # The source ends after four pages, and so does the call, if the range is taken.
        bench.region(0, 1 << 36, bench.source("hole", 8))
        bench.region(0, 1, bench.source("aligned", 1), gpa=shared)
        if bits == 48:
            machine.close()


# ------------------------------------------------------------------ the launch's states


@tdx_scenario("tdx.state.before_init_vm", "what a TD takes before KVM_TDX_INIT_VM")
def _state_before_init_vm(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    bench.command("CAPABILITIES", machine.try_.tdx.get_capabilities())
    bench.command("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.command("KVM_CREATE_VCPU", machine.try_.create_vcpu(0))


@tdx_scenario("tdx.state.second_init_vm", "KVM_TDX_INIT_VM twice, then CAPABILITIES")
def _state_second_init_vm(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    cpuid = _configured(bench, machine)
    bench.command("INIT_VM", machine.try_.tdx.init_vm(cpuid=cpuid))
    bench.command("CAPABILITIES", machine.try_.tdx.get_capabilities())


@tdx_scenario("tdx.state.init_vm_arguments", "KVM_TDX_INIT_VM with values that KVM refuses")
def _state_init_vm_arguments(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    init_vm = machine.try_.tdx.init_vm
    good = _configured(bench, machine)
    unknown = CpuidEntry(0x40000000)
    no_width = [entry for entry in good if entry.function != 0x80000008]
    bench.command("flags 1", init_vm(cpuid=good, flags=1))
    bench.command("a reserved word", init_vm(cpuid=good, reserved=1))
    bench.command("attribute DEBUG", init_vm(cpuid=good, attributes=TdAttributes.DEBUG))
    bench.command("attribute bit 1", init_vm(cpuid=good, attributes=1 << 1))
    bench.command("xfam bit 63", init_vm(cpuid=good, xfam=1 << 63))
    bench.command("a CPUID leaf of nobody's", init_vm(cpuid=[*good, unknown]))
    bench.command("without the leaf 0x80000008", init_vm(cpuid=no_width))
    bench.command("addresses of 47 bits", init_vm(cpuid=_configured(bench, machine, bits=47)))
    bench.command("257 CPUID entries", init_vm(cpuid=[unknown] * 257))
    bench.command("a good one after these", init_vm(cpuid=good))


@tdx_scenario(
    "tdx.state.init_vm_refused", "KVM_TDX_INIT_VM with a CPUID bit that the TDX module refuses"
)
def _state_init_vm_refused(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = _configured(bench, machine)
    # Of 0x80000008, the upper bits of EDX are nobody's to configure.
    bad = [
        replace(entry, edx=0xFFFFFFFF) if entry.function == 0x80000008 else entry for entry in good
    ]
    bench.command("INIT_VM", machine.try_.tdx.init_vm(cpuid=bad))
    bench.command("a good one after it", machine.try_.tdx.init_vm(cpuid=good))


@tdx_scenario(
    "tdx.state.capabilities", "KVM_TDX_CAPABILITIES: too little room, flags, a bad pointer"
)
def _state_capabilities(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    tdx = machine.try_.tdx
    bench.command("no entry", tdx.get_capabilities(0))
    bench.command("one entry", tdx.get_capabilities(1))
    bench.command("256 entries", tdx.get_capabilities(256))
    bench.command("flags 1", tdx.get_capabilities(flags=1))
    bench.command("a bad pointer", tdx.raw_command(lib.KVM_TDX_CAPABILITIES, 0x10))
    grown = machine.tdx.capabilities(1)
    bench.fact("grown from one entry", "complete" if len(grown.cpuid) > 1 else "incomplete")


@tdx_scenario(
    "tdx.state.tsc", "KVM_SET_TSC_KHZ before INIT_VM: less than the module takes, then enough"
)
def _state_tsc(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = _configured(bench, machine)
    for megahertz in (50, 1000):
        bench.command(f"{megahertz} MHz", machine.try_.set_tsc_khz(megahertz * 1000))
        bench.command("INIT_VM", machine.try_.tdx.init_vm(cpuid=good))
    bench.command("2000 MHz after INIT_VM", machine.try_.set_tsc_khz(2_000_000))


@tdx_scenario(
    "tdx.state.irqchip", "vCPUs of TDs without an interrupt controller, and with a whole one"
)
def _state_irqchip(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    bench.command("KVM_CREATE_IRQCHIP", machine.try_.create_irqchip())
    machine.tdx.init_vm(cpuid=_configured(bench, machine))
    bench.command("KVM_CREATE_VCPU without", machine.try_.create_vcpu(0))


@tdx_scenario("tdx.state.vcpu_limit", "more vCPUs than the host has processors")
def _state_vcpu_limit(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    limit = machine.check_extension(lib.KVM_CAP_MAX_VCPUS)
    as_many = "processors" if limit == os.cpu_count() else "not processors"
    bench.fact("KVM_CAP_MAX_VCPUS", as_many, str(limit))
    created = [machine.try_.create_vcpu(index) for index in range(limit + 1)]
    for result in created:
        if result.value is not None:
            machine.own(result.value)
    bench.tally("up to the limit", created[:-1])
    bench.command("one more", created[-1])


@tdx_scenario("tdx.state.before_init_vcpu", "INIT_MEM_REGION before KVM_TDX_INIT_VCPU")
def _state_before_init_vcpu(bench: TdxBench) -> None:
    machine = bench.make()
    machine.set_private(0, PAGE_SIZE)
    bench.region(0, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.state.init_vcpu", "KVM_TDX_INIT_VCPU with flags, once, twice")
def _state_init_vcpu(bench: TdxBench) -> None:
    vcpu = bench.make().tdx_vcpu().try_
    bench.command("flags 1", vcpu.init_vcpu(flags=1))
    bench.command("once", vcpu.init_vcpu(0x1234))
    bench.command("twice", vcpu.init_vcpu())


@tdx_scenario(
    "tdx.state.init_vcpu_cpuid", "KVM_TDX_INIT_VCPU without CPUID, then with x2APIC in it"
)
def _state_init_vcpu_cpuid(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    start_td(machine, bench.kvm)
    vcpu = machine.create_vcpu(0)
    machine.own(vcpu)
    machine.vcpus.append(vcpu)
    bench.command("no CPUID", machine.tdx_vcpu().try_.init_vcpu())
    machine.tdx_vcpu().set_cpuid_of_td()
    bench.command("the TD's CPUID", machine.tdx_vcpu().try_.init_vcpu())


@tdx_scenario("tdx.state.get_cpuid", "KVM_TDX_GET_CPUID: too little room, and before INIT_VCPU")
def _state_get_cpuid(bench: TdxBench) -> None:
    vcpu = bench.make().tdx_vcpu().try_
    small = vcpu.get_cpuid(1)
    bench.command("one entry", small)
    needed = (small.written_back or (0,))[0]
    exact = vcpu.get_cpuid(needed)
    bench.command("as many as it asked for", exact)
    told = len(exact.value or ()) == needed > 1
    bench.fact("the number it wrote back", "exact" if told else "not exact", str(needed))
    bench.command("a bad pointer", vcpu.raw_command(lib.KVM_TDX_GET_CPUID, 0x10))


@tdx_scenario("tdx.state.after_finalize", "commands after KVM_TDX_FINALIZE_VM")
def _state_after_finalize(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    bench.command("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.region(1, 1, source)
    bench.command("INIT_VCPU", bench.vcpu.try_.init_vcpu())
    bench.command("GET_CPUID", bench.vcpu.try_.get_cpuid())
    bench.command("CAPABILITIES", machine.try_.tdx.get_capabilities())


@tdx_scenario("tdx.state.second_finalize", "KVM_TDX_FINALIZE_VM twice")
def _state_second_finalize(bench: TdxBench) -> None:
    bench.region(0, 1, bench.source("aligned", 1))
    bench.command("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())
    bench.command("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.state.finalize_empty", "KVM_TDX_FINALIZE_VM of a TD without a page")
def _state_finalize_empty(bench: TdxBench) -> None:
    bench.command("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.state.finalize_arguments", "KVM_TDX_FINALIZE_VM with flags and data")
def _state_finalize_arguments(bench: TdxBench) -> None:
    bench.command("flags 1, data 1", bench.machine.try_.tdx.finalize_vm(flags=1, data=1))


@tdx_scenario(
    "tdx.state.finalize_without_vcpu",
    "KVM_TDX_FINALIZE_VM before any KVM_TDX_INIT_VCPU: the module wants a vCPU, KVM does not ask",
    destructive=True,
)
def _state_finalize_without_vcpu(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    bench.command("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.command("FINALIZE_VM again", machine.try_.tdx.finalize_vm())


# Two CPUs: KVM makes no more vCPUs than there are.
@tdx_scenario(
    "tdx.state.vcpu_after_finalize", "a vCPU created after KVM_TDX_FINALIZE_VM", "two_cpus"
)
def _state_vcpu_after_finalize(bench: TdxBench) -> None:
    machine = bench.make_ready()
    machine.tdx.finalize_vm()
    created = machine.try_.create_vcpu(1)
    if created.value is not None:
        machine.own(created.value)
    bench.command("KVM_CREATE_VCPU", created)


@tdx_scenario("tdx.state.run_before_finalize", "KVM_RUN before KVM_TDX_FINALIZE_VM")
def _state_run_before_finalize(bench: TdxBench) -> None:
    vcpu = bench.machine.vcpus[0]
    status = ioctl.run(vcpu.fileno(), vcpu.kvm_run, 1_000_000_000)
    bench.command("KVM_RUN", Result("KVM_RUN", status, max(-status, 0)))


@tdx_scenario("tdx.state.registers", "a TD's registers, which KVM does not have")
def _state_registers(bench: TdxBench) -> None:
    machine = bench.machine
    vcpu = machine.vcpus[0]
    bench.command("KVM_GET_REGS", vcpu.try_.get_regs())
    bench.command("KVM_GET_SREGS", vcpu.try_.get_sregs())
    bench.command("KVM_SET_REGS", vcpu.try_.set_regs(ffi.new("struct kvm_regs *")))


@tdx_scenario("tdx.state.unknown_command", "sub-command numbers nobody has")
def _state_unknown_command(bench: TdxBench) -> None:
    for number in (6, 99, 0xFFFFFFFF):
        bench.command(f"{number} on the VM", bench.machine.try_.tdx.command(number))
        bench.command(f"{number} on the vCPU", bench.vcpu.try_.command(number))


@tdx_scenario("tdx.state.other_fd", "commands of the VM on a vCPU, and of the vCPU on the VM")
def _state_other_fd(bench: TdxBench) -> None:
    of_vm, of_vcpu = bench.machine.try_.tdx.command, bench.vcpu.try_.command
    for name in ("CAPABILITIES", "INIT_VM", "FINALIZE_VM"):
        bench.command(f"{name} on the vCPU", of_vcpu(int(getattr(lib, f"KVM_TDX_{name}"))))
    for name in ("INIT_VCPU", "INIT_MEM_REGION", "GET_CPUID"):
        bench.command(f"{name} on the VM", of_vm(int(getattr(lib, f"KVM_TDX_{name}"))))


@tdx_scenario("tdx.state.bad_pointers", "commands and parameters that are not there")
def _state_bad_pointers(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    bench.command("INIT_VM's parameters", machine.try_.tdx.raw_command(lib.KVM_TDX_INIT_VM, 0x10))
    start_td(machine, bench.kvm)
    bench.ready(machine)
    for name, fd in (("VM", machine.fileno()), ("vCPU", machine.vcpus[0].fileno())):
        bench.command(
            f"the command itself, on the {name}", raw_ioctl(fd, "KVM_MEMORY_ENCRYPT_OP", 0x10)
        )
    bench.command("the region", bench.vcpu.try_.raw_command(lib.KVM_TDX_INIT_MEM_REGION, 0x10))


@tdx_scenario(
    "tdx.state.readonly_region", "the region's struct in read-only memory: no progress comes back"
)
def _state_readonly_region(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    vcpu = bench.vcpu
    with map_memory(PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as page:
        page.write(0, b"".join(word.to_bytes(8, "little") for word in (source.address, 0, 1)))
        page.protect(PROT_READ)
        result = vcpu.try_.raw_command(
            lib.KVM_TDX_INIT_MEM_REGION, page.address, flags=lib.KVM_TDX_MEASURE_MEMORY_REGION
        )
    bench.command("INIT_MEM_REGION", result)
    bench.forget_digest()
    bench.region(0, 1, source)


@tdx_scenario(
    "tdx.state.readonly_command", "FINALIZE_VM's command in read-only memory: done, and EFAULT"
)
def _state_readonly_command(bench: TdxBench) -> None:
    machine = bench.machine
    with map_memory(PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as page:
        page.write(0, int(lib.KVM_TDX_FINALIZE_VM).to_bytes(4, "little"))
        page.protect(PROT_READ)
        result = raw_ioctl(machine, "KVM_MEMORY_ENCRYPT_OP", page.address)
    bench.command("FINALIZE_VM", result)
    bench.command("FINALIZE_VM again", machine.try_.tdx.finalize_vm())


@tdx_scenario(
    "tdx.state.52_bits_without_leaf",
    "a TD with 52-bit guest addresses, its vCPU's CPUID without the leaf 0x80000000",
    destructive=True,
)
def _state_52_bits_without_leaf(bench: TdxBench) -> None:
    machine = bench.make(guest_address_bits=52)
    machine.set_private(0, 2 * PAGE_SIZE)
    machine.vcpus[0].set_cpuid2(cpuid2([CpuidEntry(1, ecx=1 << 21)]))
    machine.tdx_vcpu().init_vcpu()
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    bench.region(1, 1, source)


# ------------------------------------------------------------------ what the TDX module answers


@contextmanager
def _module_answers(leaf: Seamcall, status: int, after: int = 0, times: int = 1) -> Iterator[None]:
    """Have a leaf fail inside the block, and no longer."""
    tdx_standin.inject(leaf, status, after, times)
    try:
        yield
    finally:
        tdx_standin.clear_injection()


@tdx_scenario("tdx.module.page_add_busy", "the module is busy when a page is added", "standin")
def _module_page_add_busy(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(Seamcall.MEM_PAGE_ADD, _OPERAND_BUSY, times=3):
        bench.region(0, 2, source)


@tdx_scenario(
    "tdx.module.sept_add_busy", "the module is busy when a page table is added", "standin"
)
def _module_sept_add_busy(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(Seamcall.MEM_SEPT_ADD, _OPERAND_BUSY, times=3):
        bench.region(0, 2, source)


@tdx_scenario(
    "tdx.module.busy_signal", "the module stays busy at the third page until a signal", "standin"
)
def _module_busy_signal(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        with _module_answers(Seamcall.MEM_PAGE_ADD, _OPERAND_BUSY, after=2, times=0xFFFFFFFF):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            bench.region(0, 4, source)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    bench.region(2, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.module.page_add_fails", "the module refuses the third of four pages", "standin")
def _module_page_add_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    with _module_answers(
        Seamcall.MEM_PAGE_ADD, status_code("PAGE_METADATA_INCORRECT", "R8"), after=2
    ):
        bench.region(0, 4, source)
    bench.region(2, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.module.sept_add_fails", "the module refuses a page table", "standin")
def _module_sept_add_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    with _module_answers(Seamcall.MEM_SEPT_ADD, status_code("EPT_WALK_FAILED", "RCX")):
        bench.region(0, 1, source)
    bench.region(0, 1, source)


@tdx_scenario(
    "tdx.module.extend_fails", "the module refuses to measure the second of two pages", "standin"
)
def _module_extend_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(
        Seamcall.MR_EXTEND, status_code("EPT_ENTRY_NOT_PRESENT", "RCX"), after=16 + 3
    ):
        bench.region(0, 2, source)
    bench.forget_digest()
    bench.region(1, 1, source.address + PAGE_SIZE)


@tdx_scenario("tdx.module.finalize_busy", "the module is busy at FINALIZE_VM; a retry", "standin")
def _module_finalize_busy(bench: TdxBench) -> None:
    finalize = bench.machine.try_.tdx.finalize_vm
    with _module_answers(Seamcall.MR_FINALIZE, _OPERAND_BUSY):
        bench.command("FINALIZE_VM", finalize())
    bench.command("FINALIZE_VM again", finalize())


@tdx_scenario("tdx.module.finalize_fails", "the module refuses FINALIZE_VM; a retry", "standin")
def _module_finalize_fails(bench: TdxBench) -> None:
    finalize = bench.machine.try_.tdx.finalize_vm
    with _module_answers(Seamcall.MR_FINALIZE, status_code("OP_STATE_INCORRECT")):
        bench.command("FINALIZE_VM", finalize())
    bench.command("FINALIZE_VM again", finalize())


@tdx_scenario(
    "tdx.module.entropy", "no entropy for a TD's key: for a moment, and for long", "standin"
)
def _module_entropy(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = _configured(bench, machine)
    for label, times in (("for long", 2 * _ENTROPY_RETRIES), ("for a moment", 3)):
        with _module_answers(Seamcall.MNG_CREATE, _NO_ENTROPY, times=times):
            bench.command(label, machine.try_.tdx.init_vm(cpuid=good))


@tdx_scenario("tdx.module.init_vm_fails", "the module fails in each step of INIT_VM", "standin")
def _module_init_vm_fails(bench: TdxBench) -> None:
    failures = (
        (Seamcall.MNG_CREATE, status_code("HKID_NOT_FREE")),
        (Seamcall.MNG_KEY_CONFIG, status_code("KEY_GENERATION_FAILED")),
        (Seamcall.MNG_ADDCX, status_code("PAGE_METADATA_INCORRECT", "RCX")),
        (Seamcall.MNG_ADDCX, _NO_ENTROPY),
        (Seamcall.MNG_INIT, status_code("OPERAND_INVALID", "TSC_FREQUENCY")),
        (Seamcall.MNG_INIT, status_code("TDCS_NOT_ALLOCATED")),
    )
    for leaf, status in failures:
        machine = bench.make(initialized=False, vcpus=0)
        machine.enable_split_irqchip()
        good = _configured(bench, machine)
        with _module_answers(leaf, status, times=2 * _ENTROPY_RETRIES):
            bench.command(f"{leaf.name}", machine.try_.tdx.init_vm(cpuid=good))
        bench.command("INIT_VM again", machine.try_.tdx.init_vm(cpuid=good))
        machine.close()


@tdx_scenario("tdx.module.init_vcpu_fails", "the module fails in each step of INIT_VCPU", "standin")
def _module_init_vcpu_fails(bench: TdxBench) -> None:
    failures = (
        (Seamcall.VP_CREATE, status_code("PAGE_METADATA_INCORRECT", "RCX")),
        (Seamcall.VP_ADDCX, status_code("TDCX_NUM_INCORRECT")),
        (Seamcall.VP_INIT, status_code("MAX_VCPUS_EXCEEDED")),
    )
    for leaf, status in failures:
        machine = bench.make()
        with _module_answers(leaf, status):
            bench.command(f"{leaf.name}", machine.tdx_vcpu().try_.init_vcpu())
        bench.command("INIT_VCPU again", machine.tdx_vcpu().try_.init_vcpu())
        machine.close()


@tdx_scenario("tdx.module.punch_busy", "the module is busy when a page is punched out", "standin")
def _module_punch_busy(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    source = bench.source("aligned", 1)
    bench.region(0, 1, source)
    for leaf in (Seamcall.MEM_RANGE_BLOCK, Seamcall.MEM_PAGE_REMOVE):
        with _module_answers(leaf, _OPERAND_BUSY):
            bench.command(f"punch, {leaf.name} busy", guest_memfd.try_.punch_hole(0, PAGE_SIZE))
        bench.region(0, 1, source)


@tdx_scenario(
    "tdx.module.vp_enter_fails", "a finalized TD's vCPU that the module can't enter", "standin"
)
def _module_vp_enter_fails(bench: TdxBench) -> None:
    # No emulated processor could: the software module says NON_RECOVERABLE_VCPU each time.
    machine = bench.machine
    machine.tdx.finalize_vm()
    left = machine.vcpus[0].run(5)
    bench.fact("KVM_RUN", left.name)


# ------------------------------------------------------------------ pre-fault


def _pre_fault(bench: TdxBench, *, finalized: bool) -> None:
    machine = bench.machine
    bench.region(0, 2, bench.source("aligned", 2))
    if finalized:
        machine.tdx.finalize_vm()
    bench.pre_fault(machine.vcpus[0], 0, 4)
    if not finalized:
        bench.region(2, 2, bench.source("aligned", 2))


@tdx_scenario(
    "tdx.prefault.before_finalize", "KVM_PRE_FAULT_MEMORY before FINALIZE_VM", "pre_fault"
)
def _prefault_before_finalize(bench: TdxBench) -> None:
    _pre_fault(bench, finalized=False)


@tdx_scenario("tdx.prefault.after_finalize", "KVM_PRE_FAULT_MEMORY after FINALIZE_VM", "pre_fault")
def _prefault_after_finalize(bench: TdxBench) -> None:
    _pre_fault(bench, finalized=True)


# ------------------------------------------------------------------ races and signals


def _add_going_on(
    bench: TdxBench, vcpu: int, source: SourceBuffer, added: list[int], calls: list[Result[Any]]
) -> None:
    """Add the whole slot through one vCPU, going on past what another has done."""
    gfn = 0
    while gfn < SLOT_PAGES:
        result = bench.machine.tdx_vcpu(vcpu).try_.init_mem_region(
            gfn * PAGE_SIZE,
            SLOT_PAGES - gfn,
            source=source.address + gfn * PAGE_SIZE,
        )
        assert result.written_back is not None
        reached = result.written_back[0] // PAGE_SIZE
        added.extend(range(gfn, reached))
        calls.append(result)
        gfn = reached if result.ok else reached + 1


def _populate_at_once(bench: TdxBench, vcpus: list[int]) -> None:
    source = bench.source("aligned", SLOT_PAGES)
    barrier = threading.Barrier(len(vcpus))
    added: list[int] = []
    calls: list[Result[Any]] = []

    def body(vcpu: int) -> None:
        barrier.wait(10)
        _add_going_on(bench, vcpu, source, added, calls)

    workers = [threading.Thread(target=body, args=(vcpu,)) for vcpu in vcpus]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    bench.forget_digest()
    bench.populated_once(added)
    bench.tally("calls", calls)
    bench.command("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.race.two_vcpus", "two threads add the same range through two vCPUs", "two_cpus")
def _race_two_vcpus(bench: TdxBench) -> None:
    bench.make_ready(vcpus=2)
    _populate_at_once(bench, [0, 1])


@tdx_scenario("tdx.race.one_vcpu", "four threads add the same range through one vCPU", "two_cpus")
def _race_one_vcpu(bench: TdxBench) -> None:
    bench.make_ready()
    _populate_at_once(bench, [0, 0, 0, 0])


@tdx_scenario(
    "tdx.race.punch", "one thread adds pages, another punches holes in the same range", "two_cpus"
)
def _race_punch(bench: TdxBench) -> None:
    guest_memfd = bench.machine.slots[0].guest_memfd
    assert guest_memfd is not None
    source = bench.source("aligned", SLOT_PAGES)
    punches: list[Result[Any]] = []
    size = SLOT_PAGES * PAGE_SIZE
    with meanwhile(lambda: punches.append(guest_memfd.try_.punch_hole(0, size))):
        calls = [bench.try_region(0, SLOT_PAGES, source) for _ in range(10)]
    bench.tally("calls", calls)
    bench.tally("punches", punches)
    bench.command("a last punch", guest_memfd.try_.punch_hole(0, size))
    bench.region(0, SLOT_PAGES, source)


@tdx_scenario(
    "tdx.race.attributes", "one thread adds pages, another flips the range's attributes", "two_cpus"
)
def _race_attributes(bench: TdxBench) -> None:
    machine = bench.machine
    size = SLOT_PAGES * PAGE_SIZE
    source = bench.source("aligned", SLOT_PAGES)
    flips: list[Result[Any]] = []

    def flip() -> None:
        private = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
        flips.append(
            machine.try_.set_memory_attributes(0, size, 0 if len(flips) % 2 == 0 else private)
        )

    with meanwhile(flip):
        calls = [bench.try_region(0, SLOT_PAGES, source) for _ in range(10)]
    bench.tally("calls", calls)
    bench.tally("flips", flips)
    machine.set_shared(0, size)
    machine.set_private(0, size)
    bench.region(0, SLOT_PAGES, source)


@tdx_scenario("tdx.race.finalize", "FINALIZE_VM while another thread adds pages", "two_cpus")
def _race_finalize(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", SLOT_PAGES)
    results: list[Result[Any]] = []
    worker = threading.Thread(
        target=lambda: results.append(bench.try_region(0, SLOT_PAGES, source))
    )
    worker.start()
    finalized = machine.try_.tdx.finalize_vm()
    worker.join(30)
    bench.command("FINALIZE_VM", finalized)
    left = (results[0].written_back or (0, 0, 1))[2]
    # The call holds the VM's locks to its end: FINALIZE_VM comes before or after, never between.
    whole = (results[0].ok and left == 0) or (results[0].errno_name, left) == ("EINVAL", SLOT_PAGES)
    bench.fact("the pages", "all or none" if whole else "some", f"{results[0]}, {left} left")


@tdx_scenario("tdx.race.signal", "signals rain while a range is added")
def _race_signal(bench: TdxBench) -> None:
    """Progress is kept, and the loop that goes on from it adds each page once."""
    source = bench.source("aligned", SLOT_PAGES)
    vcpu = bench.vcpu
    main = threading.get_ident()

    def rain() -> None:
        signal.pthread_kill(main, signal.SIGURG)
        time.sleep(0.0005)

    # SIGURG is ignored by default, and an ignored signal is never pending: it needs a handler.
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    calls: list[Result[Any]] = []
    gpa, address, left = 0, source.address, SLOT_PAGES
    try:
        with meanwhile(rain):
            for _ in range(10_000):
                result = vcpu.try_.init_mem_region(gpa, left, source=address)
                assert result.written_back is not None
                gpa, address, left = result.written_back
                calls.append(result)
                if not left:
                    break
    finally:
        signal.signal(signal.SIGURG, before)
    bench.added(0, SLOT_PAGES, source)
    bench.fact("populated", f"{SLOT_PAGES - left} of {SLOT_PAGES}")
    bench.tally("calls while signals rain", calls)


# ------------------------------------------------------------------ the end


@tdx_scenario("tdx.end.closed_populated", "the VM closed in the middle of a launch", "standin")
def _end_closed_populated(bench: TdxBench) -> None:
    before = tdx_standin.page_counts() or {}
    bench.region(0, SLOT_PAGES, bench.source("aligned", SLOT_PAGES))
    empty = dict.fromkeys(before, 0)
    bench.machine.close()
    counts = tdx_standin.wait_for_counts(empty, 3) or {}
    bench.fact("pages and keys left with the module", sum(counts.values()))


@tdx_scenario(
    "tdx.end.guest_memfd_kept", "the VM closed while its guest_memfd stays open", "standin"
)
def _end_guest_memfd_kept(bench: TdxBench) -> None:
    machine = bench.machine
    guest_memfd = machine.slots[0].guest_memfd
    assert guest_memfd is not None
    bench.region(0, 4, bench.source("aligned", 4))
    kept = bench.stack.enter_context(os.fdopen(os.dup(guest_memfd.fileno()), "rb", closefd=True))
    machine.close()
    bench.fact("keys in use", (tdx_standin.page_counts() or {})["keyids"])
    kept.close()
    empty = dict.fromkeys(tdx_standin.page_counts() or {}, 0)
    counts = tdx_standin.wait_for_counts(empty, 3) or {}
    bench.fact("pages and keys left with the module", sum(counts.values()))


@tdx_scenario("tdx.end.key_reuse", "more TDs than there are keys, one after another", "standin")
def _end_key_reuse(bench: TdxBench) -> None:
    results = []
    for _ in range(tdx_standin.keys() + 5):
        machine = bench.make_ready()
        results.append(bench.try_region(0, 1, bench.source("aligned", 1)))
        machine.close()
    bench.tally("the first page of each", results)


@tdx_scenario("tdx.end.out_of_keys", "more TDs at once than there are keys", "standin")
def _end_out_of_keys(bench: TdxBench) -> None:
    cpuid: list[CpuidEntry] = []
    for _ in range(tdx_standin.keys() + 1):
        machine = bench.stack.enter_context(bench.kvm.create_vm(VmType.TDX))
        machine.enable_split_irqchip()
        cpuid = cpuid or _configured(bench, machine)
        # Without vCPUs and memory: only the keys are to run out.
        result = Tdx(machine).try_.init_vm(cpuid=cpuid)
        if not result.ok:
            break
    bench.command("the last INIT_VM", result)
