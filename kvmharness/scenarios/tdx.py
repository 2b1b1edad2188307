# SPDX-License-Identifier: MIT
"""What only TDX has: unmeasured pages, guest addresses, the launch's states, the module's failures.

What it populates as SNP does is in populate*.py, ids ``tdx.`` and the case there.

What each gives on which kernel is in contract/tdx.toml; here is only what is tried.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kvmharness.errors import errno_name
from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, PROT_READ, map_memory
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.registers import Regs
from kvmharness.kvm.result import Result
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.tdx import TdAttributes, Tdx, start_td
from kvmharness.launch.tdx_status import status_code
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.populate import pre_fault
from kvmharness.scenarios.populate_bench import SLOT_PAGES
from kvmharness.scenarios.populate_races import flip_while_populated, populate_at_once
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.step import Call
from kvmharness.scenarios.tdx_bench import TdxBench, tdx_scenario
from kvmharness.standins import tdx as tdx_standin
from kvmharness.standins.tdx import Failure, Seamcall

#: The bit of a guest address that says shared: above it where guests have 48 bits, and 52.
_SHARED_48 = 1 << 47
_SHARED_52 = 1 << 51

_OPERAND_BUSY = status_code("OPERAND_BUSY", "TDR")
_NO_ENTROPY = status_code("RND_NO_ENTROPY")
#: The kernel asks again so often for entropy (RDRAND_RETRY_LOOPS) before it gives up.
_ENTROPY_RETRIES = 10


# ------------------------------------------------------------------ sources


def _try_unmeasured(bench: TdxBench, kind: str) -> None:
    bench.populate(0, 4, bench.source(kind, 4), measure=False)


# Measured ones are populate.py's. The kinds' names, which end the ids, stand in sources.py.
for _kind in SOURCE_KINDS.values():
    tdx_scenario(f"tdx.unmeasured.{_kind.name}", f"unmeasured, from {_kind.summary}", *_kind.needs)(
        functools.partial(_try_unmeasured, kind=_kind.name)
    )


@tdx_scenario("tdx.source.order", "a shared page from no source: which of the two is noticed first")
def _source_order(bench: TdxBench) -> None:
    bench.machine.set_shared(0, PAGE_SIZE)
    bench.populate(0, 1, bench.source("unmapped", 1))
    bench.populate(0, 1, None)


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
        bench.populate(0, 2, mapping.address)


@tdx_scenario("tdx.measure.mixed", "measured and unmeasured pages, in calls of one page and more")
def _measure_mixed(bench: TdxBench) -> None:
    source = bench.source("aligned", 8)
    bench.populate(8, 2, source)
    bench.populate(0, 3, source, measure=False)
    bench.populate(3, 1, source.address + 3 * PAGE_SIZE)
    bench.populate(4, 2, source.address + 4 * PAGE_SIZE, measure=False)
    bench.step("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


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
    registers = {"mrconfigid": "11", "mrowner": "22", "mrownerconfig": "33"}
    bench.wants(**{name: byte * 48 for name, byte in registers.items()})
    bench.populate(0, 2, bench.source("aligned", 2))
    bench.step("FINALIZE_VM", machine.try_.tdx.finalize_vm())


# ------------------------------------------------------------------ numbers of pages and flags


@tdx_scenario("tdx.pages.zero", "no pages")
def _pages_zero(bench: TdxBench) -> None:
    bench.populate(0, 0, bench.source("aligned", 1))


@tdx_scenario("tdx.pages.two_to_52", "2^52 pages: in bytes that is 0 again")
def _pages_two_to_52(bench: TdxBench) -> None:
    bench.populate(0, 1 << 52, bench.source("aligned", 4))


@tdx_scenario(
    "tdx.pages.past_two_to_52", "2^52 + 2 pages, which the check of the range takes for 2"
)
def _pages_past_two_to_52(bench: TdxBench) -> None:
    # The source ends after four pages; a kernel that believes in 2 would stop before that.
    bench.populate(0, (1 << 52) + 2, bench.source("hole", 8))


@tdx_scenario("tdx.pages.huge", "2^40 and 2^64 - 1 pages: the range reaches into shared addresses")
def _pages_huge(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    bench.populate(0, 1 << 40, source)
    bench.populate(0, (1 << 64) - 1, source)


@tdx_scenario("tdx.flags.unknown", "flags that the uAPI does not have")
def _flags_unknown(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for bit in (1, 7, 31):
        bench.populate(0, 1, source, flags=1 << bit)
    bench.populate(0, 1, source, flags=lib.KVM_TDX_MEASURE_MEMORY_REGION | 1 << 1)


@tdx_scenario("tdx.hw_error.nonzero", "hw_error not 0 on input, with every command")
def _hw_error_nonzero(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    command = machine.try_.tdx.command
    bench.step("CAPABILITIES", command(lib.KVM_TDX_CAPABILITIES, hw_error=1))
    bench.step("INIT_VM", command(lib.KVM_TDX_INIT_VM, hw_error=1))
    start_td(machine, bench.kvm)
    bench.ready(machine, initialize_vcpus=False)
    of_vcpu = machine.tdx_vcpu().try_.command
    bench.step("GET_CPUID", of_vcpu(lib.KVM_TDX_GET_CPUID, hw_error=1))
    bench.step("INIT_VCPU", of_vcpu(lib.KVM_TDX_INIT_VCPU, hw_error=1))
    machine.tdx_vcpu().init_vcpu()
    bench.populate(0, 1, bench.source("aligned", 1), hw_error=1)
    bench.step("FINALIZE_VM", command(lib.KVM_TDX_FINALIZE_VM, hw_error=1 << 63))


# ------------------------------------------------------------------ ranges


@tdx_scenario("tdx.range.gpa_unaligned", "guest addresses that no page begins at")
def _range_gpa_unaligned(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for gpa in (1, PAGE_SIZE // 2, PAGE_SIZE - 1):
        bench.populate(0, 1, source, gpa=gpa)


@tdx_scenario("tdx.range.wraps", "a range that runs past the end of 64-bit addresses")
def _range_wraps(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    bench.populate(0, 1, source, gpa=(1 << 64) - PAGE_SIZE)
    bench.populate(0, 2, source, gpa=(1 << 64) - PAGE_SIZE)


@tdx_scenario("tdx.range.shared_gpa", "guest addresses with the shared bit")
def _range_shared_gpa(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    for gpa in (_SHARED_48, _SHARED_48 | PAGE_SIZE):
        bench.populate(0, 1, source, gpa=gpa)


@tdx_scenario("tdx.range.above_shared_gpa", "a page above the shared bit, and a range across it")
def _range_above_shared_gpa(bench: TdxBench) -> None:
    bench.populate(0, 1, bench.source("aligned", 1), gpa=_SHARED_48 << 1)
    # From below the shared half to above it: neither end has the bit. The source ends after four.
    bench.populate(0, (1 << 36) + 1, bench.source("hole", 8))


@tdx_scenario("tdx.range.into_shared_gpa", "a range whose second page has the shared bit")
def _range_into_shared_gpa(bench: TdxBench) -> None:
    bench.populate(0, 2, bench.source("aligned", 2), gpa=_SHARED_48 - PAGE_SIZE)


@tdx_scenario("tdx.range.populated", "a page that was added before")
def _range_populated(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    bench.populate(0, 1, source)
    bench.populate(0, 1, source, measure=False)


@tdx_scenario(
    "tdx.range.punched_finalized",
    "a page punched out after FINALIZE_VM, then pre-faulted",
    "pre_fault",
)
def _range_punched_finalized(bench: TdxBench) -> None:
    guest_memfd = bench.guest_memfd
    bench.populate(0, 2, bench.source("aligned", 2))
    bench.machine.tdx.finalize_vm()
    bench.step("punch page 1", guest_memfd.try_.punch_hole(PAGE_SIZE, PAGE_SIZE))
    vcpu = bench.machine.vcpus[0]
    bench.step("pre-fault page 1", vcpu.try_.pre_fault_memory(PAGE_SIZE, PAGE_SIZE))
    bench.step("punch page 1 again", guest_memfd.try_.punch_hole(PAGE_SIZE, PAGE_SIZE))


@tdx_scenario(
    "tdx.range.52_bits",
    "2^36 pages, which reach bit 47: in a TD of 48-bit addresses, of 52-bit ones",
)
def _range_52_bits(bench: TdxBench) -> None:
    for bits, shared in ((48, _SHARED_48), (52, _SHARED_52)):
        machine = bench.make_ready(guest_address_bits=bits)
        # The source ends after four pages, and so does the call, if the range is taken.
        bench.populate(0, 1 << 36, bench.source("hole", 8))
        bench.populate(0, 1, bench.source("aligned", 1), gpa=shared)
        if bits == 48:
            machine.close()


# ------------------------------------------------------------------ the launch's states


@tdx_scenario("tdx.state.before_init_vm", "what a TD takes before KVM_TDX_INIT_VM")
def _state_before_init_vm(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    bench.step("CAPABILITIES", machine.try_.tdx.get_capabilities())
    bench.step("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.step("KVM_CREATE_VCPU", machine.try_.create_vcpu(0))


@tdx_scenario("tdx.state.second_init_vm", "KVM_TDX_INIT_VM twice, then CAPABILITIES")
def _state_second_init_vm(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    cpuid = bench.cpuid_of_td(machine)
    bench.step("INIT_VM", machine.try_.tdx.init_vm(cpuid=cpuid))
    bench.step("CAPABILITIES", machine.try_.tdx.get_capabilities())


@tdx_scenario("tdx.state.init_vm_arguments", "KVM_TDX_INIT_VM with values that KVM refuses")
def _state_init_vm_arguments(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    init_vm = machine.try_.tdx.init_vm
    good = bench.cpuid_of_td(machine)
    unknown = CpuidEntry(0x40000000)
    no_width = [entry for entry in good if entry.function != 0x80000008]
    bench.step("flags 1", init_vm(cpuid=good, flags=1))
    bench.step("a reserved word", init_vm(cpuid=good, reserved=1))
    bench.step("attribute DEBUG", init_vm(cpuid=good, attributes=TdAttributes.DEBUG))
    bench.step("attribute bit 1", init_vm(cpuid=good, attributes=1 << 1))
    bench.step("xfam bit 63", init_vm(cpuid=good, xfam=1 << 63))
    bench.step("a CPUID leaf of nobody's", init_vm(cpuid=[*good, unknown]))
    bench.step("without the leaf 0x80000008", init_vm(cpuid=no_width))
    bench.step("addresses of 47 bits", init_vm(cpuid=bench.cpuid_of_td(machine, 47)))
    bench.step("257 CPUID entries", init_vm(cpuid=[unknown] * 257))
    bench.step("a good one after these", init_vm(cpuid=good))


@tdx_scenario(
    "tdx.state.init_vm_refused", "KVM_TDX_INIT_VM with a CPUID bit that the TDX module refuses"
)
def _state_init_vm_refused(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = bench.cpuid_of_td(machine)
    # Of 0x80000008, the upper bits of EDX are nobody's to configure.
    bad = [
        entry.replaced(edx=0xFFFFFFFF) if entry.function == 0x80000008 else entry for entry in good
    ]
    bench.step("INIT_VM", machine.try_.tdx.init_vm(cpuid=bad))
    bench.step("a good one after it", machine.try_.tdx.init_vm(cpuid=good))


@tdx_scenario(
    "tdx.state.capabilities", "KVM_TDX_CAPABILITIES: too little room, flags, a bad pointer"
)
def _state_capabilities(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    tdx = machine.try_.tdx
    bench.step("no entry", tdx.get_capabilities(0))
    bench.step("one entry", tdx.get_capabilities(1))
    bench.step("256 entries", tdx.get_capabilities(256))
    bench.step("flags 1", tdx.get_capabilities(flags=1))
    bench.step("a bad pointer", tdx.raw_command(lib.KVM_TDX_CAPABILITIES, 0x10))
    grown = machine.tdx.capabilities(1)
    bench.fact("grown from one entry", "complete" if len(grown.cpuid) > 1 else "incomplete")


@tdx_scenario(
    "tdx.state.tsc", "KVM_SET_TSC_KHZ before INIT_VM: less than the module takes, then enough"
)
def _state_tsc(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = bench.cpuid_of_td(machine)
    for megahertz in (50, 1000):
        bench.step(f"{megahertz} MHz", machine.try_.set_tsc_khz(megahertz * 1000))
        bench.step("INIT_VM", machine.try_.tdx.init_vm(cpuid=good))
    bench.step("2000 MHz after INIT_VM", machine.try_.set_tsc_khz(2_000_000))


@tdx_scenario(
    "tdx.state.irqchip", "vCPUs of TDs without an interrupt controller, and with a whole one"
)
def _state_irqchip(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    bench.step("KVM_CREATE_IRQCHIP", machine.try_.create_irqchip())
    machine.tdx.init_vm(cpuid=bench.cpuid_of_td(machine))
    bench.step("KVM_CREATE_VCPU without", machine.try_.create_vcpu(0))


@tdx_scenario("tdx.state.vcpu_limit", "more vCPUs than the host has processors")
def _state_vcpu_limit(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    limit = machine.check_extension(lib.KVM_CAP_MAX_VCPUS)
    as_many = "processors" if limit == os.cpu_count() else "not processors"
    bench.fact("KVM_CAP_MAX_VCPUS", as_many, str(limit))
    created = [bench.keep(machine.try_.create_vcpu(index)) for index in range(limit + 1)]
    bench.tally("up to the limit", created[:-1])
    bench.step("one more", created[-1])


@tdx_scenario("tdx.state.before_init_vcpu", "INIT_MEM_REGION before KVM_TDX_INIT_VCPU")
def _state_before_init_vcpu(bench: TdxBench) -> None:
    machine = bench.make()
    machine.set_private(0, PAGE_SIZE)
    bench.populate(0, 1, bench.source("aligned", 1))


@tdx_scenario("tdx.state.init_vcpu", "KVM_TDX_INIT_VCPU with flags, once, twice")
def _state_init_vcpu(bench: TdxBench) -> None:
    vcpu = bench.make().tdx_vcpu().try_
    bench.step("flags 1", vcpu.init_vcpu(flags=1))
    bench.step("once", vcpu.init_vcpu(0x1234))
    bench.step("twice", vcpu.init_vcpu())


@tdx_scenario(
    "tdx.state.init_vcpu_cpuid", "KVM_TDX_INIT_VCPU without CPUID, then with x2APIC in it"
)
def _state_init_vcpu_cpuid(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    start_td(machine, bench.kvm)
    vcpu = machine.create_vcpu(0)
    machine.own(vcpu)
    machine.vcpus.append(vcpu)
    bench.step("no CPUID", machine.tdx_vcpu().try_.init_vcpu())
    machine.tdx_vcpu().set_cpuid_of_td()
    bench.step("the TD's CPUID", machine.tdx_vcpu().try_.init_vcpu())


@tdx_scenario("tdx.state.get_cpuid", "KVM_TDX_GET_CPUID: too little room, and before INIT_VCPU")
def _state_get_cpuid(bench: TdxBench) -> None:
    vcpu = bench.make().tdx_vcpu().try_
    small = vcpu.get_cpuid(1)
    bench.step("one entry", small)
    needed = (small.written_back or (0,))[0]
    exact = vcpu.get_cpuid(needed)
    bench.step("as many as it asked for", exact)
    told = len(exact.value or ()) == needed > 1
    bench.fact("the number it wrote back", "exact" if told else "not exact", str(needed))
    bench.step("a bad pointer", vcpu.raw_command(lib.KVM_TDX_GET_CPUID, 0x10))


@tdx_scenario("tdx.state.after_finalize", "commands after KVM_TDX_FINALIZE_VM")
def _state_after_finalize(bench: TdxBench) -> None:
    machine = bench.machine
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    bench.step("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.populate(1, 1, source)
    bench.step("INIT_VCPU", bench.vcpu.try_.init_vcpu())
    bench.step("GET_CPUID", bench.vcpu.try_.get_cpuid())
    bench.step("CAPABILITIES", machine.try_.tdx.get_capabilities())


@tdx_scenario("tdx.state.second_finalize", "KVM_TDX_FINALIZE_VM twice")
def _state_second_finalize(bench: TdxBench) -> None:
    bench.populate(0, 1, bench.source("aligned", 1))
    bench.step("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())
    bench.step("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.state.finalize_empty", "KVM_TDX_FINALIZE_VM of a TD without a page")
def _state_finalize_empty(bench: TdxBench) -> None:
    bench.step("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.state.finalize_arguments", "KVM_TDX_FINALIZE_VM with flags and data")
def _state_finalize_arguments(bench: TdxBench) -> None:
    bench.step("flags 1, data 1", bench.machine.try_.tdx.finalize_vm(flags=1, data=1))


@tdx_scenario(
    "tdx.state.finalize_without_vcpu",
    "KVM_TDX_FINALIZE_VM before any KVM_TDX_INIT_VCPU: the module wants a vCPU, KVM does not ask",
    destructive=True,
)
def _state_finalize_without_vcpu(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    bench.step("FINALIZE_VM", machine.try_.tdx.finalize_vm())
    bench.step("FINALIZE_VM again", machine.try_.tdx.finalize_vm())


# Two CPUs: KVM makes no more vCPUs than there are.
@tdx_scenario(
    "tdx.state.vcpu_after_finalize", "a vCPU created after KVM_TDX_FINALIZE_VM", "two_cpus"
)
def _state_vcpu_after_finalize(bench: TdxBench) -> None:
    machine = bench.make_ready()
    machine.tdx.finalize_vm()
    bench.step("KVM_CREATE_VCPU", bench.keep(machine.try_.create_vcpu(1)))


@tdx_scenario("tdx.state.run_before_finalize", "KVM_RUN before KVM_TDX_FINALIZE_VM")
def _state_run_before_finalize(bench: TdxBench) -> None:
    vcpu = bench.machine.vcpus[0]
    status = ioctl.run(vcpu.fileno(), vcpu.kvm_run.pointer, 1_000_000_000)
    bench.step("KVM_RUN", Result("KVM_RUN", status, max(-status, 0)))


@tdx_scenario("tdx.state.registers", "a TD's registers, which KVM does not have")
def _state_registers(bench: TdxBench) -> None:
    machine = bench.machine
    vcpu = machine.vcpus[0]
    bench.step("KVM_GET_REGS", vcpu.try_.get_regs())
    bench.step("KVM_GET_SREGS", vcpu.try_.get_sregs())
    bench.step("KVM_SET_REGS", vcpu.try_.set_regs(Regs()))


@tdx_scenario("tdx.state.unknown_command", "sub-command numbers nobody has")
def _state_unknown_command(bench: TdxBench) -> None:
    for number in (6, 99, 0xFFFFFFFF):
        bench.step(f"{number} on the VM", bench.machine.try_.tdx.command(number))
        bench.step(f"{number} on the vCPU", bench.vcpu.try_.command(number))


@tdx_scenario("tdx.state.other_fd", "commands of the VM on a vCPU, and of the vCPU on the VM")
def _state_other_fd(bench: TdxBench) -> None:
    of_vm, of_vcpu = bench.machine.try_.tdx.command, bench.vcpu.try_.command
    for name in ("CAPABILITIES", "INIT_VM", "FINALIZE_VM"):
        bench.step(f"{name} on the vCPU", of_vcpu(int(getattr(lib, f"KVM_TDX_{name}"))))
    for name in ("INIT_VCPU", "INIT_MEM_REGION", "GET_CPUID"):
        bench.step(f"{name} on the VM", of_vm(int(getattr(lib, f"KVM_TDX_{name}"))))


@tdx_scenario("tdx.state.bad_pointers", "commands and parameters that are not there")
def _state_bad_pointers(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    bench.step("INIT_VM's parameters", machine.try_.tdx.raw_command(lib.KVM_TDX_INIT_VM, 0x10))
    start_td(machine, bench.kvm)
    bench.ready(machine)
    for name, fd in (("VM", machine.fileno()), ("vCPU", machine.vcpus[0].fileno())):
        bench.step(
            f"the command itself, on the {name}", raw_ioctl(fd, "KVM_MEMORY_ENCRYPT_OP", 0x10)
        )
    bench.step("the region", bench.vcpu.try_.raw_command(lib.KVM_TDX_INIT_MEM_REGION, 0x10))


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
    bench.step("INIT_MEM_REGION", result)
    bench.forget_digest()
    bench.populate(0, 1, source)


@tdx_scenario(
    "tdx.state.readonly_command", "FINALIZE_VM's command in read-only memory: done, and EFAULT"
)
def _state_readonly_command(bench: TdxBench) -> None:
    machine = bench.machine
    with map_memory(PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as page:
        page.write(0, int(lib.KVM_TDX_FINALIZE_VM).to_bytes(4, "little"))
        page.protect(PROT_READ)
        result = raw_ioctl(machine, "KVM_MEMORY_ENCRYPT_OP", page.address)
    bench.step("FINALIZE_VM", result)
    bench.step("FINALIZE_VM again", machine.try_.tdx.finalize_vm())


@tdx_scenario(
    "tdx.state.52_bits_without_leaf",
    "a TD with 52-bit guest addresses, its vCPU's CPUID without the leaf 0x80000000",
    destructive=True,
)
def _state_52_bits_without_leaf(bench: TdxBench) -> None:
    machine = bench.make(guest_address_bits=52)
    machine.set_private(0, 2 * PAGE_SIZE)
    machine.vcpus[0].set_cpuid2([CpuidEntry(1, ecx=1 << 21)])
    machine.tdx_vcpu().init_vcpu()
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    bench.populate(1, 1, source)


# ------------------------------------------------------------------ what the TDX module answers


@contextmanager
def _module_answers(leaf: Seamcall, status: int, after: int = 0, times: int = 1) -> Iterator[None]:
    """Have a leaf fail inside the block, and no longer."""
    tdx_standin.inject(Failure(leaf, status, after, times))
    try:
        yield
    finally:
        tdx_standin.clear_injection()


@tdx_scenario("tdx.module.page_add_busy", "the module is busy when a page is added", "standin")
def _module_page_add_busy(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(Seamcall.MEM_PAGE_ADD, _OPERAND_BUSY, times=3):
        bench.populate(0, 2, source)


@tdx_scenario(
    "tdx.module.sept_add_busy", "the module is busy when a page table is added", "standin"
)
def _module_sept_add_busy(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(Seamcall.MEM_SEPT_ADD, _OPERAND_BUSY, times=3):
        bench.populate(0, 2, source)


@tdx_scenario(
    "tdx.module.busy_signal", "the module stays busy at the third page until a signal", "standin"
)
def _module_busy_signal(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        with _module_answers(Seamcall.MEM_PAGE_ADD, _OPERAND_BUSY, after=2, times=0xFFFFFFFF):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            bench.populate(0, 4, source)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    bench.populate(2, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.module.page_add_fails", "the module refuses the third of four pages", "standin")
def _module_page_add_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 4)
    with _module_answers(
        Seamcall.MEM_PAGE_ADD, status_code("PAGE_METADATA_INCORRECT", "R8"), after=2
    ):
        bench.populate(0, 4, source)
    bench.populate(2, 2, source.address + 2 * PAGE_SIZE)


@tdx_scenario("tdx.module.sept_add_fails", "the module refuses a page table", "standin")
def _module_sept_add_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 1)
    with _module_answers(Seamcall.MEM_SEPT_ADD, status_code("EPT_WALK_FAILED", "RCX")):
        bench.populate(0, 1, source)
    bench.populate(0, 1, source)


@tdx_scenario(
    "tdx.module.extend_fails", "the module refuses to measure the second of two pages", "standin"
)
def _module_extend_fails(bench: TdxBench) -> None:
    source = bench.source("aligned", 2)
    with _module_answers(
        Seamcall.MR_EXTEND, status_code("EPT_ENTRY_NOT_PRESENT", "RCX"), after=16 + 3
    ):
        bench.populate(0, 2, source)
    bench.forget_digest()
    bench.populate(1, 1, source.address + PAGE_SIZE)


@tdx_scenario("tdx.module.finalize_busy", "the module is busy at FINALIZE_VM; a retry", "standin")
def _module_finalize_busy(bench: TdxBench) -> None:
    finalize = bench.machine.try_.tdx.finalize_vm
    with _module_answers(Seamcall.MR_FINALIZE, _OPERAND_BUSY):
        bench.step("FINALIZE_VM", finalize())
    bench.step("FINALIZE_VM again", finalize())


@tdx_scenario("tdx.module.finalize_fails", "the module refuses FINALIZE_VM; a retry", "standin")
def _module_finalize_fails(bench: TdxBench) -> None:
    finalize = bench.machine.try_.tdx.finalize_vm
    with _module_answers(Seamcall.MR_FINALIZE, status_code("OP_STATE_INCORRECT")):
        bench.step("FINALIZE_VM", finalize())
    bench.step("FINALIZE_VM again", finalize())


@tdx_scenario(
    "tdx.module.entropy", "no entropy for a TD's key: for a moment, and for long", "standin"
)
def _module_entropy(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    good = bench.cpuid_of_td(machine)
    for label, times in (("for long", 2 * _ENTROPY_RETRIES), ("for a moment", 3)):
        with _module_answers(Seamcall.MNG_CREATE, _NO_ENTROPY, times=times):
            bench.step(label, machine.try_.tdx.init_vm(cpuid=good))


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
        good = bench.cpuid_of_td(machine)
        with _module_answers(leaf, status, times=2 * _ENTROPY_RETRIES):
            bench.step(f"{leaf.name}", machine.try_.tdx.init_vm(cpuid=good))
        bench.step("INIT_VM again", machine.try_.tdx.init_vm(cpuid=good))
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
            bench.step(f"{leaf.name}", machine.tdx_vcpu().try_.init_vcpu())
        bench.step("INIT_VCPU again", machine.tdx_vcpu().try_.init_vcpu())
        machine.close()


@tdx_scenario("tdx.module.punch_busy", "the module is busy when a page is punched out", "standin")
def _module_punch_busy(bench: TdxBench) -> None:
    guest_memfd = bench.guest_memfd
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    for leaf in (Seamcall.MEM_RANGE_BLOCK, Seamcall.MEM_PAGE_REMOVE):
        with _module_answers(leaf, _OPERAND_BUSY):
            bench.step(f"punch, {leaf.name} busy", guest_memfd.try_.punch_hole(0, PAGE_SIZE))
        bench.populate(0, 1, source)


@tdx_scenario(
    "tdx.module.vp_enter_fails", "a finalized TD's vCPU that the module can't enter", "standin"
)
def _module_vp_enter_fails(bench: TdxBench) -> None:
    # No emulated processor could: the software module says NON_RECOVERABLE_VCPU each time.
    machine = bench.machine
    machine.tdx.finalize_vm()
    vcpu = machine.vcpus[0]  # which says itself that no guest of it runs here
    status = ioctl.run(vcpu.fileno(), vcpu.kvm_run.pointer, 5_000_000_000)
    bench.fact("KVM_RUN", errno_name(-status) if status < 0 else vcpu.kvm_run.exit.name)


# ------------------------------------------------------------------ pre-fault


@tdx_scenario(
    "tdx.prefault.before_finalize", "KVM_PRE_FAULT_MEMORY before FINALIZE_VM", "pre_fault"
)
def _prefault_before_finalize(bench: TdxBench) -> None:
    pre_fault(bench, finished=False)


@tdx_scenario("tdx.prefault.after_finalize", "KVM_PRE_FAULT_MEMORY after FINALIZE_VM", "pre_fault")
def _prefault_after_finalize(bench: TdxBench) -> None:
    pre_fault(bench, finished=True)


# ------------------------------------------------------------------ races and signals


def _add_at_once(bench: TdxBench, vcpus: list[int]) -> None:
    verbs = [functools.partial(bench.populate, vcpu=vcpu, record=False) for vcpu in vcpus]
    populate_at_once(bench, verbs)
    bench.step("FINALIZE_VM", bench.machine.try_.tdx.finalize_vm())


@tdx_scenario("tdx.race.two_vcpus", "two threads add the same range through two vCPUs", "two_cpus")
def _race_two_vcpus(bench: TdxBench) -> None:
    bench.make_ready(vcpus=2)
    _add_at_once(bench, [0, 1])


@tdx_scenario("tdx.race.one_vcpu", "four threads add the same range through one vCPU", "two_cpus")
def _race_one_vcpu(bench: TdxBench) -> None:
    bench.make_ready()
    _add_at_once(bench, [0, 0, 0, 0])


@tdx_scenario(
    "tdx.race.attributes", "one thread adds pages, another flips the range's attributes", "two_cpus"
)
def _race_attributes(bench: TdxBench) -> None:
    source = bench.source("aligned", SLOT_PAGES)
    flip_while_populated(bench, source)
    bench.machine.set_shared(0, SLOT_PAGES * PAGE_SIZE)
    bench.machine.set_private(0, SLOT_PAGES * PAGE_SIZE)
    bench.populate(0, SLOT_PAGES, source)


@tdx_scenario("tdx.race.finalize", "FINALIZE_VM while another thread adds pages", "two_cpus")
def _race_finalize(bench: TdxBench) -> None:
    source = bench.source("aligned", SLOT_PAGES)
    bench.forget_digest()
    calls: list[Call] = []
    worker = threading.Thread(
        target=lambda: calls.append(bench.populate(0, SLOT_PAGES, source, record=False))
    )
    worker.start()
    finalized = bench.machine.try_.tdx.finalize_vm()
    worker.join(30)
    bench.step("FINALIZE_VM", finalized)
    # The call holds the VM's locks to its end: FINALIZE_VM comes before or after, never between.
    (call,) = calls
    whole = call.whole and call.errno in (0, errno.EINVAL)
    bench.fact("the pages", "all or none" if whole else "some", words(call))


# ------------------------------------------------------------------ the end


@tdx_scenario("tdx.end.closed_populated", "the VM closed in the middle of a launch", "standin")
def _end_closed_populated(bench: TdxBench) -> None:
    before = tdx_standin.page_counts() or {}
    bench.populate(0, SLOT_PAGES, bench.source("aligned", SLOT_PAGES))
    empty = dict.fromkeys(before, 0)
    bench.machine.close()
    counts = tdx_standin.wait_for_counts(empty, 3) or {}
    bench.fact("pages and keys left with the module", sum(counts.values()))


@tdx_scenario(
    "tdx.end.guest_memfd_kept", "the VM closed while its guest_memfd stays open", "standin"
)
def _end_guest_memfd_kept(bench: TdxBench) -> None:
    bench.populate(0, 4, bench.source("aligned", 4))
    kept = bench.stack.enter_context(os.fdopen(os.dup(bench.guest_memfd.fileno()), "rb"))
    bench.machine.close()
    bench.fact("keys in use", (tdx_standin.page_counts() or {})["keyids"])
    kept.close()
    empty = dict.fromkeys(tdx_standin.page_counts() or {}, 0)
    counts = tdx_standin.wait_for_counts(empty, 3) or {}
    bench.fact("pages and keys left with the module", sum(counts.values()))


@tdx_scenario("tdx.end.key_reuse", "more TDs than there are keys, one after another", "standin")
def _end_key_reuse(bench: TdxBench) -> None:
    calls = []
    for _ in range(tdx_standin.keys() + 5):
        machine = bench.make_ready()
        calls.append(bench.populate(0, 1, bench.source("aligned", 1), record=False))
        machine.close()
    bench.tally("the first page of each", calls)


@tdx_scenario("tdx.end.out_of_keys", "more TDs at once than there are keys", "standin")
def _end_out_of_keys(bench: TdxBench) -> None:
    cpuid = Cpuid()
    for _ in range(tdx_standin.keys() + 1):
        machine = bench.stack.enter_context(bench.kvm.create_vm(VmType.TDX))
        machine.enable_split_irqchip()
        cpuid = cpuid or bench.cpuid_of_td(machine)
        # Without vCPUs and memory: only the keys are to run out.
        result = Tdx(machine).try_.init_vm(cpuid=cpuid)
        if not result.ok:
            break
    bench.step("the last INIT_VM", result)
