# SPDX-License-Identifier: MIT
"""A page that the host's memory loses is refused to the guest until it is punched out.

The error is simulated (MADV_HWPOISON), the page lost all the same until the next boot.
"""

from __future__ import annotations

import pytest

from kvmharness import Vm
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE

GPA = 0x4000_0000
SIZE = 4 * PAGE_SIZE
HWPOISON = 100


@pytest.mark.scenario("gmem.hwpoison.pre_fault")
@pytest.mark.destructive
@pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3)
@pytest.mark.requires_cap("KVM_CAP_PRE_FAULT_MEMORY")
@pytest.mark.expects_log("[Mm]emory failure")
@pytest.mark.leaves("pages that nobody has")
def test_a_lost_page_is_refused_and_a_hole_gives_another(vm: Vm) -> None:
    in_place = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
    with (
        vm.create_guest_memfd(SIZE, in_place) as memfd,
        memfd.mmap() as mapping,
        vm.create_vcpu(0) as vcpu,
    ):
        vm.set_user_memory_region2(0, GPA, SIZE, mapping.address, lib.KVM_MEM_GUEST_MEMFD, memfd)
        mapping.fill(0, SIZE, 0x5A)
        assert vcpu.try_.pre_fault_memory(GPA, SIZE).ok
        lost = mapping.try_madvise(HWPOISON, PAGE_SIZE, PAGE_SIZE)
        if lost.errno_name == "EPERM":
            pytest.skip("a memory error can be simulated by root alone")
        if lost.errno_name == "EINVAL":
            pytest.skip("this kernel simulates no memory errors (CONFIG_MEMORY_FAILURE)")
        assert lost.ok
        assert vm.stats()["pages_4k"] == 3  # the guest has it no longer
        # Twice: a refusal that kept the page's lock would never come back from the second.
        for _ in range(2):
            result = vcpu.try_.pre_fault_memory(GPA + PAGE_SIZE, PAGE_SIZE)
            assert result.errno_name == "EHWPOISON"
        assert vcpu.try_.pre_fault_memory(GPA, PAGE_SIZE).ok
        memfd.punch_hole(PAGE_SIZE, PAGE_SIZE)
        assert vcpu.try_.pre_fault_memory(GPA + PAGE_SIZE, PAGE_SIZE).ok
        assert mapping.read(PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
        assert mapping.read(0, PAGE_SIZE) == b"\x5a" * PAGE_SIZE
