# SPDX-License-Identifier: MIT
"""Flags and states by their kernel names without the prefix; each is an int as well.

Other numbers of the kernel's are in ``constants``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class MemFlag(IntFlag):
    """KVM_MEM_*: what a memslot is (KVM_SET_USER_MEMORY_REGION)."""

    LOG_DIRTY_PAGES = 1 << 0
    READONLY = 1 << 1
    GUEST_MEMFD = 1 << 2


class GuestMemfdFlag(IntFlag):
    """GUEST_MEMFD_FLAG_* (6.18): what a guest_memfd can do (KVM_CREATE_GUEST_MEMFD)."""

    MMAP = 1 << 0
    INIT_SHARED = 1 << 1


class MemoryAttribute(IntFlag):
    """KVM_MEMORY_ATTRIBUTE_*: what a page is to the guest (KVM_SET_MEMORY_ATTRIBUTES)."""

    PRIVATE = 1 << 3


class IrqfdFlag(IntFlag):
    """KVM_IRQFD_FLAG_*."""

    DEASSIGN = 1 << 0
    RESAMPLE = 1 << 1


class IoeventfdFlag(IntFlag):
    """KVM_IOEVENTFD_FLAG_*: a port instead of MMIO, a value to compare, or taking it away."""

    DATAMATCH = 1 << 0
    PIO = 1 << 1
    DEASSIGN = 1 << 2
    VIRTIO_CCW_NOTIFY = 1 << 3


class MpState(IntEnum):
    """KVM_MP_STATE_*: what a vCPU is about to do (KVM_GET_MP_STATE). x86 has 0 to 4 and 9."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4
    STOPPED = 5
    CHECK_STOP = 6
    OPERATING = 7
    LOAD = 8
    AP_RESET_HOLD = 9
    SUSPENDED = 10


class SystemEvent(IntEnum):
    """KVM_SYSTEM_EVENT_*: the `kind` of a SystemEventExit."""

    SHUTDOWN = 1
    RESET = 2
    CRASH = 3
    WAKEUP = 4
    SUSPEND = 5
    SEV_TERM = 6
    TDX_FATAL = 7


class CpuidFlag(IntFlag):
    """KVM_CPUID_FLAG_*: of a CpuidEntry."""

    SIGNIFCANT_INDEX = 1 << 0
    STATEFUL_FUNC = 1 << 1
    STATE_READ_NEXT = 1 << 2


class VcpuEventFlag(IntFlag):
    """KVM_VCPUEVENT_VALID_*: which optional parts of VcpuEvents count."""

    NMI_PENDING = 1 << 0
    SIPI_VECTOR = 1 << 1
    SHADOW = 1 << 2
    SMM = 1 << 3
    PAYLOAD = 1 << 4
    TRIPLE_FAULT = 1 << 5


class InterruptShadow(IntFlag):
    """KVM_X86_SHADOW_INT_*: what holds interrupts back for an instruction."""

    MOV_SS = 1 << 0
    STI = 1 << 1


class MsrExitReason(IntFlag):
    """KVM_MSR_EXIT_REASON_*: which accesses exit; a MsrExit's `why`."""

    INVAL = 1 << 0
    UNKNOWN = 1 << 1
    FILTER = 1 << 2


class MsrFilterFlag(IntFlag):
    """KVM_MSR_FILTER_READ and _WRITE: the accesses that a range of KVM_X86_SET_MSR_FILTER is of."""

    READ = 1 << 0
    WRITE = 1 << 1


class MemoryExitFlag(IntFlag):
    """KVM_MEMORY_EXIT_FLAG_*: of a MemoryFaultExit."""

    PRIVATE = 1 << 3


class DisableExits(IntFlag):
    """KVM_X86_DISABLE_EXITS_*: what a guest may do by itself (KVM_CAP_X86_DISABLE_EXITS)."""

    MWAIT = 1 << 0
    HLT = 1 << 1
    PAUSE = 1 << 2
    CSTATE = 1 << 3
    APERFMPERF = 1 << 4


class DirtyLogFlag(IntFlag):
    """KVM_DIRTY_LOG_*: how the log is kept (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)."""

    MANUAL_PROTECT_ENABLE = 1 << 0
    INITIALLY_SET = 1 << 1


class RunFlag(IntFlag):
    """KVM_RUN_X86_*: `flags` of the run page."""

    SMM = 1 << 0
    BUS_LOCK = 1 << 1
    GUEST_MODE = 1 << 2
