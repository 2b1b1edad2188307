# SPDX-License-Identifier: MIT
"""The CPUID of a vCPU, read as a guest's kernel reads its topology."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from kvmharness.kvm.cpuid import Cpuid, CpuidEntry
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.cpuid import GuestCpu

X2APIC, TSC_DEADLINE, HYPERVISOR, HTT = 1 << 21, 1 << 24, 1 << 31, 1 << 28
INDEXED = 1


def vendor(name: bytes) -> CpuidEntry:
    ebx, edx, ecx = struct.unpack("<3I", name)
    return CpuidEntry(0, eax=0x20, ebx=ebx, ecx=ecx, edx=edx)


#: As a host of 16 processors says it, asked on its sixth.
COMMON = [
    CpuidEntry(1, eax=0xC06F2, ebx=0x0510_0800, ecx=X2APIC | 1 << 13, edx=0x0F8B_FBFF | HTT),
    CpuidEntry(7, 0, eax=2, ebx=0x1802042, flags=INDEXED),
    CpuidEntry(0xB, 0, edx=5, flags=INDEXED),
    CpuidEntry(0x1F, 0, edx=5, flags=INDEXED),
]
INTEL = [
    vendor(b"GenuineIntel"),
    *COMMON,
    CpuidEntry(4, 0, 0x3C00_4121, 0x2C0_003F, 0x3F, 0, INDEXED),
    CpuidEntry(4, 1, 0x3C03_C163, 0x4C0_003F, 0x3_BFFF, 4, INDEXED),
    CpuidEntry(4, 2, flags=INDEXED),
    CpuidEntry(0x8000_0001, ecx=0x101),
    CpuidEntry(0x8000_0008, eax=0x392E, ebx=0x100D200),
]
AMD = [
    vendor(b"AuthenticAMD"),
    *COMMON,
    CpuidEntry(0x8000_0001, ecx=0x40_0101),
    CpuidEntry(0x8000_0008, eax=0x3030, ebx=0x100D200, ecx=0x1_400F),
    CpuidEntry(0x8000_001D, 0, 0x0000_4121, 0x1C0_003F, 0x3F, 0, INDEXED),
    CpuidEntry(0x8000_001D, 1, 0x0003_C163, 0x3C0_003F, 0x7FFF, 1, INDEXED),
    CpuidEntry(0x8000_001D, 2, flags=INDEXED),
    CpuidEntry(0x8000_001E, eax=5, ebx=0x105, ecx=0x302),
    CpuidEntry(0x8000_001F, eax=0x1F, ebx=0xB3, ecx=509, edx=100),
]


class Seen:
    """A vCPU's CPUID, by leaf and sub-leaf."""

    def __init__(self, entries: Sequence[CpuidEntry]) -> None:
        self.entries = entries
        self.leaves = {(entry.function, entry.index): entry for entry in entries}
        assert len(self.leaves) == len(entries), "one sub-leaf twice"

    def __call__(self, function: int, index: int = 0) -> CpuidEntry:
        return self.leaves[function, index]

    def levels(self, function: int) -> list[tuple[int, int, int, int]]:
        """Walk as detect_extended_topology does: (type, shift, count, APIC id) to the first 0."""
        found: list[tuple[int, int, int, int]] = []
        for index in range(8):
            entry = self(function, index)
            assert entry.flags == INDEXED
            assert entry.ecx & 0xFF == index
            if not entry.ecx >> 8 & 0xFF:
                return found
            found.append((entry.ecx >> 8 & 0xFF, entry.eax & 0x1F, entry.ebx & 0xFFFF, entry.edx))
        raise AssertionError("the levels do not end")


def seen(
    supported: Sequence[CpuidEntry],
    vcpu: int = 0,
    vcpus: int = 1,
    vm_type: VmType = VmType.DEFAULT,
    *,
    local_apic: bool = True,
    tsc_deadline: bool = False,
) -> Seen:
    cpu = GuestCpu(vm_type, vcpu, vcpus, local_apic, tsc_deadline)
    return Seen(cpu.cpuid(supported))


@pytest.mark.parametrize("supported", [INTEL, AMD], ids=["intel", "amd"])
@pytest.mark.parametrize("vcpus", [1, 2, 3, 4, 5, 288])
def test_each_vcpu_has_its_own_apic_id(supported: list[CpuidEntry], vcpus: int) -> None:
    ids = set()
    for vcpu in {0, 1 % vcpus, vcpus - 1}:
        guest = seen(supported, vcpu, vcpus)
        assert guest(1).ebx >> 24 == vcpu & 0xFF
        for leaf in (0xB, 0x1F):
            (smt, smt_shift, threads, smt_id), (core, shift, cores, core_id) = guest.levels(leaf)
            assert (smt, smt_shift, threads, core, cores) == (1, 0, 1, 2, vcpus)
            # All in one package, whose number is what is left of the id.
            assert vcpu >> shift == 0
            assert vcpus <= 1 << shift < 2 * vcpus
            assert smt_id == core_id == vcpu
            assert guest(leaf, 2).edx == vcpu
            ids.add(core_id)
    assert ids == {0, 1 % vcpus, vcpus - 1}


@pytest.mark.parametrize(("vcpus", "ids"), [(1, 1), (2, 2), (3, 4), (4, 4), (128, 128), (300, 255)])
def test_leaf_1_counts_apic_ids(vcpus: int, ids: int) -> None:
    leaf = seen(INTEL, 0, vcpus)(1)
    assert leaf.ebx >> 16 & 0xFF == ids
    assert bool(leaf.edx & HTT) == (vcpus > 1)
    assert leaf.ebx & 0xFFFF == 0x0800  # CLFLUSH and brand: the host's
    assert leaf.eax == 0xC06F2


def test_intels_caches_are_a_cores_own_or_the_packages() -> None:
    guest = seen(INTEL, 1, 3)
    first, last, end = guest(4, 0), guest(4, 1), guest(4, 2)
    assert (first.eax >> 14 & 0xFFF, last.eax >> 14 & 0xFFF) == (0, 3)
    assert first.eax >> 26 == last.eax >> 26 == 3  # ids for cores, less one
    assert (first.eax & 0x3FFF, last.eax & 0x3FFF) == (0x121, 0x163)
    assert first.replaced(eax=0) == CpuidEntry(4, 0, 0, 0x2C0_003F, 0x3F, 0, INDEXED)
    assert end == CpuidEntry(4, 2, flags=INDEXED)


def test_amds_topology() -> None:
    guest = seen(AMD, 2, 3)
    assert guest(0x8000_0001).ecx & 2  # CmpLegacy: the package's ids are cores
    assert guest(0x8000_0008) == CpuidEntry(
        0x8000_0008, eax=0x3030, ebx=0x100D200, ecx=0x1_2002
    )  # 3 cores, 2 bits of the id; the rest is the host's
    assert [guest(0x8000_001D, i).eax >> 14 for i in (0, 1)] == [0, 3]
    topology = guest(0x8000_001E)
    assert (topology.eax, topology.ebx, topology.ecx) == (2, 2, 0)
    assert not seen(AMD)(0x8000_0001).ecx & 2


def test_what_is_intels_alone_is_not_made_amds() -> None:
    assert seen(INTEL, 1, 2)(0x8000_0008) == INTEL[-1]
    assert seen(INTEL, 1, 2)(0x8000_0001) == INTEL[-2]


@pytest.mark.parametrize(
    ("vm_type", "features"), [(VmType.SEV, 0b10), (VmType.SEV_ES, 0b1010), (VmType.SNP, 0b11010)]
)
def test_sevs_guests_see_what_they_have(vm_type: VmType, features: int) -> None:
    """And where the C bit is; neither SME, which is the host's, nor the host's ASIDs."""
    shown = seen(AMD, vm_type=vm_type)(0x8000_001F)
    assert shown == CpuidEntry(0x8000_001F, eax=features, ebx=51)


@pytest.mark.parametrize("vm_type", [VmType.DEFAULT, VmType.SW_PROTECTED, VmType.TDX])
def test_no_other_guest_sees_memory_encryption(vm_type: VmType) -> None:
    assert seen(AMD, vm_type=vm_type)(0x8000_001F) == CpuidEntry(0x8000_001F)


def test_what_kvm_has_with_its_own_apic_alone() -> None:
    for tsc_deadline in (True, False):
        without = seen(AMD, local_apic=False, tsc_deadline=tsc_deadline)(1).ecx
        assert not without & (X2APIC | TSC_DEADLINE)
        with_one = seen(AMD, local_apic=True, tsc_deadline=tsc_deadline)(1).ecx
        assert with_one & X2APIC
        assert bool(with_one & TSC_DEADLINE) == tsc_deadline
        assert with_one & without & HYPERVISOR
        assert with_one & without & 1 << 13  # CX16, as the host


def test_the_rest_is_the_hosts_in_its_order() -> None:
    guest = seen(INTEL, 1, 2)
    assert guest(7) == COMMON[1]
    order = list(dict.fromkeys(entry.function for entry in guest.entries))
    assert order == list(dict.fromkeys(entry.function for entry in INTEL))


def test_kvm_is_given_these_entries_and_no_more() -> None:
    """A host that has levels already has as many afterwards, and nent is their number."""
    once = seen(INTEL, 1, 4).entries
    again = GuestCpu(VmType.DEFAULT, 1, 4, True, False).cpuid(once)
    assert again == once
    given = Cpuid(once)
    assert given.nent == len(once) == len(INTEL) + 4
    assert given == once
