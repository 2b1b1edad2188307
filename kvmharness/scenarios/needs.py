# SPDX-License-Identifier: MIT
"""What a scenario may need of a host beyond its VM type, and why a host lacks it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kvmharness import labels
from kvmharness.kvm.ffi import lib
from kvmharness.scenarios import soft_dirty
from kvmharness.standins import snp as standin
from kvmharness.standins import tdx as tdx_standin

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm

#: What a scenario may need.
Need = Literal[
    "standin",
    "two_cpus",
    "hugetlb",
    "mappable_guest_memfd",
    "pre_fault",
    "memory_attributes",
    "no_memory_attributes",
    "soft_dirty",
    "smt",
]


def why_not(need: Need, kvm: Kvm) -> str:
    """Return why this host can't give `need`, empty if it can."""
    return _CHECKS[need](kvm)


def _standin(kvm: Kvm) -> str:
    if standin.present() or tdx_standin.present():
        return ""
    return "firmware errors can be injected, and its pages be counted, on an emulated host alone"


def _two_cpus(kvm: Kvm) -> str:
    count = len(os.sched_getaffinity(0))
    return "" if count > 1 else f"a race needs two CPUs, this host gives {count}"


def _hugetlb(kvm: Kvm) -> str:
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    try:
        free = int((pool / "free_hugepages").read_text())
        if free:
            return ""
        if os.geteuid() == 0:
            # Two pages for the length of a test: asked of a host that has none, and given back by
            # whoever owns the pool; on an emulated host nobody else is there.
            if labels.current().emulated:
                (pool / "nr_hugepages").write_text("2")
                free = int((pool / "free_hugepages").read_text())
            if free:
                return ""
    except OSError as error:
        return f"no 2 MiB hugetlb pool ({error.strerror})"
    return "no free 2 MiB huge page: reserve some in /proc/sys/vm/nr_hugepages"


def _mappable_guest_memfd(kvm: Kvm) -> str:
    if kvm.guest_memfd_flags() & lib.GUEST_MEMFD_FLAG_MMAP:
        return ""
    return "KVM_CAP_GUEST_MEMFD_FLAGS has no MMAP: guest_memfd can be mapped since Linux 6.18"


def _pre_fault(kvm: Kvm) -> str:
    if kvm.check_extension(lib.KVM_CAP_PRE_FAULT_MEMORY):
        return ""
    return "KVM_CAP_PRE_FAULT_MEMORY is 0: it takes Linux 6.11 and nested paging"


def _memory_attributes(kvm: Kvm) -> str:
    if kvm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        return ""
    return "KVM_CAP_MEMORY_ATTRIBUTES is 0 on /dev/kvm: built for no VM type with private memory"


def _no_memory_attributes(kvm: Kvm) -> str:
    return "" if _memory_attributes(kvm) else "this kernel has memory attributes"


def _soft_dirty(kvm: Kvm) -> str:
    if soft_dirty.works():
        return ""
    return "no soft-dirty bits in /proc/self/pagemap: it takes CONFIG_MEM_SOFT_DIRTY"


def _smt(kvm: Kvm) -> str:
    on = standin.smt() if standin.present() else _smt_of_the_host()
    return "" if on else "the firmware has a say where SMT is on; here it is off"


def _smt_of_the_host() -> bool:
    try:
        return Path("/sys/devices/system/cpu/smt/active").read_text().strip() == "1"
    except OSError:
        return False


_CHECKS: dict[Need, Callable[[Kvm], str]] = {
    "standin": _standin,
    "two_cpus": _two_cpus,
    "hugetlb": _hugetlb,
    "mappable_guest_memfd": _mappable_guest_memfd,
    "pre_fault": _pre_fault,
    "memory_attributes": _memory_attributes,
    "no_memory_attributes": _no_memory_attributes,
    "soft_dirty": _soft_dirty,
    "smt": _smt,
}
