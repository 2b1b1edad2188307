# SPDX-License-Identifier: MIT
"""The CPUID of each vCPU: what KVM supports, without the host's topology and what the VM lacks.

KVM_GET_SUPPORTED_CPUID has, beside what KVM can do, the APIC id and the shared caches of whatever
processor it was asked on. A guest that is told these takes its vCPUs for one, or looks for others
that do not exist (Documentation/virt/kvm/x86/errata.rst, "CPU topology"). Here a VM is one package
of cores with a thread each. Layouts: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from kvmharness.kvm.cpuid import CpuidEntry
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.vmtypes import VmType
from kvmharness.record import Record

_AMD_VENDORS = (b"AuthenticAMD", b"HygonGenuine")

#: What each type of VM has of memory encryption: SEV, SEV-ES, SEV-SNP (ENCRYPTION, EAX).
_ENCRYPTED = {VmType.SEV: 0x2, VmType.SEV_ES: 0xA, VmType.SNP: 0x1A}
_C_BIT = 0x3F  # ENCRYPTION, EBX: the place of the page tables' encryption bit

_X2APIC = 1 << 21  # FEATURES, ECX
_TSC_DEADLINE = 1 << 24
_HYPERVISOR = 1 << 31
_HTT = 1 << 28  # FEATURES, EDX
_CMP_LEGACY = 1 << 1  # AMD_FEATURES, ECX


class Leaf(IntEnum):
    """The leaves that differ from what KVM supports."""

    VENDOR = 0
    FEATURES = 1
    CACHES = 4
    TOPOLOGY = 0xB
    TOPOLOGY_V2 = 0x1F
    AMD_FEATURES = 0x8000_0001
    AMD_SIZES = 0x8000_0008
    AMD_CACHES = 0x8000_001D
    AMD_TOPOLOGY = 0x8000_001E
    ENCRYPTION = 0x8000_001F


class GuestCpu(Record, frozen=True):
    """One vCPU as its CPUID has to describe it. Its APIC id is its `id`, as KVM makes it.

    `local_apic`: KVM has one for it; `tsc_deadline`: KVM_CAP_TSC_DEADLINE_TIMER.
    """

    vm_type: VmType
    id: int
    vcpus: int
    local_apic: bool
    tsc_deadline: bool

    def cpuid(self, supported: Sequence[CpuidEntry]) -> list[CpuidEntry]:
        """Return its CPUID, from what the host has `supported` (KVM_GET_SUPPORTED_CPUID)."""
        amd = _vendor(supported) in _AMD_VENDORS
        entries: list[CpuidEntry] = []
        for entry in supported:
            match entry.function:
                case Leaf.FEATURES:
                    entries.append(self._features(entry))
                case Leaf.CACHES | Leaf.AMD_CACHES:
                    entries.append(self._cache(entry))
                case Leaf.TOPOLOGY | Leaf.TOPOLOGY_V2:
                    if entry.index == 0:  # all of its levels in the place of the first
                        entries += self._levels(entry)
                case Leaf.AMD_FEATURES if amd and self.vcpus > 1:
                    entries.append(entry.replaced(ecx=entry.ecx | _CMP_LEGACY))
                case Leaf.AMD_SIZES if amd:
                    entries.append(self._amd_sizes(entry))
                case Leaf.AMD_TOPOLOGY if amd:
                    # A core of its own, of one thread, in the only node.
                    entries.append(entry.replaced(eax=self.id, ebx=self.id & 0xFF, ecx=0))
                case Leaf.ENCRYPTION:
                    entries.append(self._encryption(entry))
                case _:
                    entries.append(entry)
        return entries

    @property
    def _id_bits(self) -> int:
        """The bits that the core takes in an APIC id."""
        return (self.vcpus - 1).bit_length()

    def _features(self, entry: CpuidEntry) -> CpuidEntry:
        ecx = entry.ecx | _HYPERVISOR  # which makes a Linux look for KVM's own leaves
        if not self.local_apic:
            # KVM has both with its own local APIC alone (api.rst, KVM_GET_SUPPORTED_CPUID).
            ecx &= ~(_X2APIC | _TSC_DEADLINE)
        elif self.tsc_deadline:
            ecx |= _TSC_DEADLINE  # not listed by older kernels, since it depends on the APIC
        ids = min(1 << self._id_bits, 0xFF)
        ebx = entry.ebx & 0xFFFF | ids << 16 | (self.id & 0xFF) << 24
        edx = entry.edx | _HTT if self.vcpus > 1 else entry.edx & ~_HTT
        return entry.replaced(ebx=ebx, ecx=ecx, edx=edx)

    def _cache(self, entry: CpuidEntry) -> CpuidEntry:
        if not entry.eax & 0x1F:  # no more caches
            return entry
        ids = (1 << self._id_bits) - 1
        level = entry.eax >> 5 & 7
        shared_by = ids if level >= 3 else 0
        cores = ids if entry.function == Leaf.CACHES else 0  # AMD has them elsewhere
        eax = entry.eax & 0x3FFF | min(shared_by, 0xFFF) << 14 | min(cores, 0x3F) << 26
        return entry.replaced(eax=eax)

    def _levels(self, entry: CpuidEntry) -> list[CpuidEntry]:
        """Threads, cores, and the level that ends the list; each has the whole APIC id."""
        return [
            CpuidEntry(
                entry.function,
                index,
                eax=shift,
                ebx=count,
                ecx=kind << 8 | index,
                edx=self.id,
                flags=lib.KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            )
            for index, (kind, shift, count) in enumerate(
                [(1, 0, 1), (2, self._id_bits, self.vcpus), (0, 0, 0)]
            )
        ]

    def _encryption(self, entry: CpuidEntry) -> CpuidEntry:
        # A guest that sees what it has not reads MSR_AMD64_SEV, and dies of a #GP. KVM reads the
        # C bit's place here, to take it for no part of an address (sev_vcpu_after_set_cpuid).
        eax = _ENCRYPTED.get(self.vm_type, 0)
        return entry.replaced(eax=eax, ebx=entry.ebx & _C_BIT if eax else 0, ecx=0, edx=0)

    def _amd_sizes(self, entry: CpuidEntry) -> CpuidEntry:
        last_core = min(self.vcpus - 1, 0xFF)
        return entry.replaced(ecx=entry.ecx & ~0xF0FF | self._id_bits << 12 | last_core)


def _vendor(supported: Sequence[CpuidEntry]) -> bytes:
    for entry in supported:
        if entry.function == Leaf.VENDOR:
            return b"".join(
                word.to_bytes(4, "little") for word in (entry.ebx, entry.edx, entry.ecx)
            )
    return b""
