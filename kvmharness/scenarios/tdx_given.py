# SPDX-License-Identifier: MIT
"""What a VMM gives to KVM for a TD, and whether the TDX module is given the same.

Each field is one that no other scenario looks at, with a value that stands for nothing else.
Whatever the module was given otherwise is in the outcome's `lost`, and fails the scenario.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvmharness.kvm.cpuid import Cpuid, CpuidEntry
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.tdx import TdAttributes, Tdx
from kvmharness.machine.machine import Machine
from kvmharness.scenarios.tdx_bench import TdxBench, tdx_scenario
from kvmharness.standins import tdx as tdx_standin
from kvmharness.standins.tdx import Given

_REGISTERS = {
    name: bytes(range(start, start + 48))
    for name, start in (("mrconfigid", 0x10), ("mrowner", 0x50), ("mrownerconfig", 0x90))
}
#: KVM_SET_TSC_KHZ; the module counts in 25 MHz.
_MEGAHERTZ = 1000
_TSC_UNITS = 40
_ADDRESS_SIZES = 0x80000008
_GUEST_ADDRESS_BITS = 0xFF0000
#: TD_PARAMS (TDX module ABI): write-back with a walk of 4 and of 5 levels; CONFIG_FLAGS NO_RBP_MOD
#: and MAX_GPAW.
_WALK_4, _WALK_5 = 0x1E, 0x26
_NO_RBP_MOD, _MAX_GPAW = 1 << 2, 1 << 0
#: Fields of a vCPU's VMCS: the number of posted interrupts' vector, its descriptor's address, and
#: the execution controls that have posted interrupts on. Above the number is the field's size.
_VECTOR, _DESCRIPTOR, _PIN_CONTROLS = 0x2, 0x2016, 0x4000
_POSTED_INTERRUPTS = 1 << 7
_POSTED_VECTOR = 0xF2
_DESCRIPTOR_ALIGNMENT = 64


def _cpuid_lost(wanted: Cpuid, given: Given | None) -> Iterator[str]:
    """Which leaves the module has otherwise than INIT_VM; those that it was not given are 0."""
    if given is None:
        return
    leaves = {(entry.function, entry.index): entry for entry in wanted}
    for (leaf, subleaf), had in given.cpuid.items():
        entry = leaves.get((leaf, 0 if subleaf == 0xFFFFFFFF else subleaf), CpuidEntry(leaf))
        eax = entry.eax & ~_GUEST_ADDRESS_BITS if leaf == _ADDRESS_SIZES else entry.eax
        one = (eax, entry.ebx, entry.ecx, entry.edx)
        if one != had:
            yield (
                f"CPUID leaf {leaf:#x}, {subleaf:#x}: KVM was given {[*map(hex, one)]}, "
                f"the module {[*map(hex, had)]}"
            )


def _distinct(entries: Cpuid, allowed: Iterable[CpuidEntry]) -> Cpuid:
    """The same entries with as many bits as may be set, so that no register is like another."""
    bits = {(entry.function, entry.index): entry for entry in allowed}
    found = []
    for entry in entries:
        may = bits[entry.function, entry.index]
        keep = _GUEST_ADDRESS_BITS if entry.function == _ADDRESS_SIZES else 0
        eax = may.eax & 0x0F0F0F0F & ~keep | entry.eax & keep
        ebx, ecx, edx = may.ebx & 0x33333333, may.ecx & 0x55555555, may.edx & 0x0FF00FF0
        found.append(CpuidEntry(entry.function, entry.index, eax, ebx, ecx, edx, entry.flags))
    return Cpuid(found)


@tdx_scenario("tdx.given.params", "INIT_VM with a value of its own for each parameter", "standin")
def _given_params(bench: TdxBench) -> None:
    for bits, eptp, flags in ((48, _WALK_4, 0), (52, _WALK_5, _MAX_GPAW)):
        machine = bench.make(initialized=False, vcpus=0)
        machine.enable_split_irqchip()
        machine.set_tsc_khz(_MEGAHERTZ * 1000)
        capabilities = Tdx(machine).capabilities()
        cpuid = _distinct(bench.cpuid_of_td(machine, bits), capabilities.cpuid)
        xfam = capabilities.supported_xfam
        result = machine.try_.tdx.init_vm(
            cpuid=cpuid,
            attributes=TdAttributes.SEPT_VE_DISABLE,
            xfam=xfam,
            mrconfigid=_REGISTERS["mrconfigid"],
            mrowner=_REGISTERS["mrowner"],
            mrownerconfig=_REGISTERS["mrownerconfig"],
        )
        bench.step("INIT_VM", result)
        bench.begin_digest()
        bench.wants(
            attributes=hex(TdAttributes.SEPT_VE_DISABLE),
            xfam=hex(xfam),
            max_vcpus=str(machine.check_extension(lib.KVM_CAP_MAX_VCPUS)),
            eptp_controls=hex(eptp),
            exec_controls=hex(_NO_RBP_MOD | flags),
            tsc_frequency=str(_TSC_UNITS),
            **{name: value.hex() for name, value in _REGISTERS.items()},
        )
        bench.check(*_cpuid_lost(cpuid, tdx_standin.given()))
        machine.close()


@tdx_scenario("tdx.given.params_bare", "INIT_VM with nothing but a CPUID", "standin")
def _given_params_bare(bench: TdxBench) -> None:
    machine = bench.make(initialized=False, vcpus=0)
    machine.enable_split_irqchip()
    cpuid = bench.cpuid_of_td(machine)
    bench.step("INIT_VM", machine.try_.tdx.init_vm(cpuid=cpuid))
    bench.begin_digest()
    bench.wants(
        attributes="0x0",
        xfam="0x3",  # what the module requires, and KVM adds
        eptp_controls=hex(_WALK_4),
        exec_controls=hex(_NO_RBP_MOD),
    )
    bench.check(*_cpuid_lost(cpuid, tdx_standin.given()))


def _vcpus_lost(wanted: dict[int, int], given: Given | None) -> Iterator[str]:
    """What the module has of vCPUs otherwise than KVM: `wanted` is RCX by vCPU id."""
    if given is None:
        return
    had = {vcpu.x2apic_id: vcpu.rcx for vcpu in given.vcpus}
    if [*had.items()] != [*wanted.items()]:
        yield f"RCX by vCPU: KVM was given {wanted}, the module {had}"
    descriptors = set()
    for vcpu in given.vcpus:
        fields = {field & 0xFFFF: value for field, value in vcpu.fields.items()}
        if fields.get(_VECTOR) != _POSTED_VECTOR:
            yield f"vCPU {vcpu.x2apic_id}: posted interrupts' vector {fields.get(_VECTOR)}"
        if not fields.get(_PIN_CONTROLS, 0) & _POSTED_INTERRUPTS:
            yield f"vCPU {vcpu.x2apic_id}: posted interrupts are off"
        address = fields.get(_DESCRIPTOR, 0)
        if not address or address % _DESCRIPTOR_ALIGNMENT or address in descriptors:
            yield f"vCPU {vcpu.x2apic_id}: posted interrupts' descriptor is at {address:#x}"
        descriptors.add(address)


@tdx_scenario("tdx.given.vcpus", "INIT_VCPU of two vCPUs with ids and RCX of their own", "standin")
def _given_vcpus(bench: TdxBench) -> None:
    machine = bench.make(vcpus=0)
    wanted = {}
    for number, rcx in ((5, 0x1234_5678_9ABC_DEF0), (3, 0x0FED_CBA9_8765_4321)):
        machine.vcpus.append(bench.keep(machine.try_.create_vcpu(number)).unwrap())
        tdx_vcpu = machine.tdx_vcpu(len(machine.vcpus) - 1)
        tdx_vcpu.set_cpuid_of_td()
        bench.step("INIT_VCPU", tdx_vcpu.try_.init_vcpu(rcx))
        wanted[number] = rcx
    bench.check(*_vcpus_lost(wanted, tdx_standin.given()))


def _populate(bench: TdxBench, machine: Machine) -> None:
    machine.set_private(0, 16 * PAGE_SIZE)
    source = bench.source("aligned", 8)
    bench.populate(9, 3, source)
    bench.populate(1, 2, source.address + 3 * PAGE_SIZE, measure=False)
    bench.populate(5, 1, source.address + 5 * PAGE_SIZE)


@tdx_scenario("tdx.given.region", "pages measured and not, from contents of their own", "standin")
def _given_pages(bench: TdxBench) -> None:
    _populate(bench, bench.make_ready())
