# SPDX-License-Identifier: MIT
"""Why KVM_RUN returned: one type per exit reason, and AnyExit, the union of them for a match."""

from __future__ import annotations

from typing import TypeAlias

from kvmharness.kvm.ffi import lib
from kvmharness.record import Record


# None is frozen, though nobody changes one: frozen, an IoExit takes three times as long to make.
class Exit(Record):
    """Any exit; `reason` is kvm_run.exit_reason."""

    reason: int

    @property
    def name(self) -> str:
        """The kernel's name for the reason, such as ``KVM_EXIT_IO``."""
        return REASON_NAMES.get(self.reason, f"KVM_EXIT {self.reason}")


class IoExit(Exit):
    """KVM_EXIT_IO: an IN or OUT. `data` holds `count` items of `size` bytes for an OUT.

    For an IN the VMM answers with ``Vcpu.complete_io`` before it runs the vCPU again.
    """

    is_out: bool
    port: int
    size: int
    count: int
    data: bytes
    data_offset: int


class MmioExit(Exit):
    """KVM_EXIT_MMIO: an access of `size` bytes at `gpa`, which no memslot backs."""

    is_write: bool
    gpa: int
    size: int
    data: bytes


class HltExit(Exit):
    """KVM_EXIT_HLT: the guest executed HLT without an in-kernel interrupt controller."""


class ShutdownExit(Exit):
    """KVM_EXIT_SHUTDOWN: a triple fault."""


class FailEntryExit(Exit):
    """KVM_EXIT_FAIL_ENTRY: the hardware refused to enter the guest."""

    hardware_reason: int
    cpu: int


class InternalErrorExit(Exit):
    """KVM_EXIT_INTERNAL_ERROR: KVM gave up; `suberror` 1 is a failed emulation."""

    suberror: int
    data: tuple[int, ...]

    @property
    def instruction(self) -> bytes:
        """The bytes that could not be emulated, where KVM gives them."""
        if self.suberror != lib.KVM_INTERNAL_ERROR_EMULATION or len(self.data) < 3:
            return b""
        if not self.data[0] & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
            return b""
        size_and_bytes = b"".join(word.to_bytes(8, "little") for word in self.data[1:3])
        return size_and_bytes[1 : 1 + min(size_and_bytes[0], 15)]


class MemoryFaultExit(Exit):
    """KVM_EXIT_MEMORY_FAULT (6.8): an access to `gpa` that needs a conversion or has no memory.

    KVM_RUN returns -1 with EFAULT or EHWPOISON beside it; `errno` is that.
    """

    flags: int
    gpa: int
    size: int
    errno: int

    @property
    def wants_private(self) -> bool:
        """Whether the guest accessed the range as private memory."""
        return bool(self.flags & lib.KVM_MEMORY_EXIT_FLAG_PRIVATE)


class HypercallExit(Exit):
    """KVM_EXIT_HYPERCALL: a hypercall that userspace asked for by KVM_CAP_EXIT_HYPERCALL."""

    number: int
    arguments: tuple[int, ...]
    flags: int


class SystemEventExit(Exit):
    """KVM_EXIT_SYSTEM_EVENT: `kind` is KVM_SYSTEM_EVENT_*; `data` its arguments."""

    kind: int
    data: tuple[int, ...]


class MsrExit(Exit):
    """KVM_EXIT_X86_RDMSR or _WRMSR, asked for by KVM_CAP_X86_USER_SPACE_MSR."""

    is_write: bool
    index: int
    data: int
    why: int


class DebugExit(Exit):
    """KVM_EXIT_DEBUG: a breakpoint or single step set by KVM_SET_GUEST_DEBUG."""

    exception: int
    pc: int
    dr6: int
    dr7: int


class InterruptedExit(Exit):
    """KVM_EXIT_INTR: the vCPU was kicked, or a signal came, before the guest exited by itself."""


class HardwareExit(Exit):
    """KVM_EXIT_UNKNOWN: the processor gave a reason that KVM does not handle."""

    hardware_reason: int


class ExceptionExit(Exit):
    """KVM_EXIT_EXCEPTION: the guest took an exception that KVM leaves to userspace."""

    vector: int
    error_code: int


class IrqWindowExit(Exit):
    """KVM_EXIT_IRQ_WINDOW_OPEN: the guest takes interrupts, as was asked for."""


class SetTprExit(Exit):
    """KVM_EXIT_SET_TPR: the guest set its TPR, without an in-kernel local APIC; `cr8` is it."""

    cr8: int


class TprAccessExit(Exit):
    """KVM_EXIT_TPR_ACCESS: the instruction at `rip` used the TPR (KVM_TPR_ACCESS_REPORTING)."""

    rip: int
    is_write: bool


class NmiExit(Exit):
    """KVM_EXIT_NMI: the guest exited for an NMI of the host."""


class IoapicEoiExit(Exit):
    """KVM_EXIT_IOAPIC_EOI: the guest ended a level-triggered `vector`, with a split irqchip."""

    vector: int


class HypervSynicExit(Exit):
    """KVM_EXIT_HYPERV of KVM_EXIT_HYPERV_SYNIC: a guest set up its interrupt controller."""

    msr: int
    control: int
    evt_page: int
    msg_page: int


class HypervCallExit(Exit):
    """KVM_EXIT_HYPERV of KVM_EXIT_HYPERV_HCALL: answered with ``Vcpu.complete_hyperv``."""

    input: int
    params: tuple[int, int]


class HypervDebugExit(Exit):
    """KVM_EXIT_HYPERV of KVM_EXIT_HYPERV_SYNDBG: a guest's kernel debugger."""

    msr: int
    control: int
    status: int
    send_page: int
    recv_page: int
    pending_page: int


class DirtyRingFullExit(Exit):
    """KVM_EXIT_DIRTY_RING_FULL: harvest the vCPU's ring, and KVM_RESET_DIRTY_RINGS."""


class ApResetHoldExit(Exit):
    """KVM_EXIT_AP_RESET_HOLD: an SEV-ES guest's vCPU waits for its start-up interrupt."""


class BusLockExit(Exit):
    """KVM_EXIT_X86_BUS_LOCK: the guest locked the bus (KVM_CAP_X86_BUS_LOCK_EXIT)."""


class XenExit(Exit):
    """KVM_EXIT_XEN of KVM_EXIT_XEN_HCALL: answered with ``Vcpu.complete_xen``."""

    longmode: bool
    cpl: int
    input: int
    params: tuple[int, ...]


class NotifyExit(Exit):
    """KVM_EXIT_NOTIFY (6.0): the guest let no event through (KVM_CAP_X86_NOTIFY_VMEXIT)."""

    flags: int

    @property
    def context_invalid(self) -> bool:
        """Whether the guest's state is lost, so that it can't go on."""
        return bool(self.flags & lib.KVM_NOTIFY_CONTEXT_INVALID)


class TdxExit(Exit):
    """KVM_EXIT_TDX (6.16): a TDVMCALL; answered with ``Vcpu.complete_tdx``.

    `number` is R11 (GHCI: 0x10000 GetTdVmCallInfo, 0x10002 GetQuote, 0x10004
    SetupEventNotifyInterrupt); `data` are its inputs: GetQuote's gpa and size, for one.
    """

    number: int
    flags: int
    data: tuple[int, ...]


class SnpReqCertsExit(Exit):
    """KVM_EXIT_SNP_REQ_CERTS (7.0): an SNP guest wants certificates at `gpa`.

    KVM_SEV_SNP_ENABLE_REQ_CERTS asks for it; ``Vcpu.complete_req_certs`` answers.
    """

    gpa: int
    npages: int


class UnknownExit(Exit):
    """A reason this package has no type for; `raw` is the exit union's first 256 bytes."""

    raw: bytes


#: Every exit that Vcpu.run() gives, for ``match`` with ``assert_never`` at its end.
AnyExit: TypeAlias = (
    IoExit
    | MmioExit
    | HltExit
    | ShutdownExit
    | FailEntryExit
    | InternalErrorExit
    | MemoryFaultExit
    | HypercallExit
    | SystemEventExit
    | MsrExit
    | DebugExit
    | InterruptedExit
    | HardwareExit
    | ExceptionExit
    | IrqWindowExit
    | SetTprExit
    | TprAccessExit
    | NmiExit
    | IoapicEoiExit
    | HypervSynicExit
    | HypervCallExit
    | HypervDebugExit
    | DirtyRingFullExit
    | ApResetHoldExit
    | BusLockExit
    | XenExit
    | NotifyExit
    | TdxExit
    | SnpReqCertsExit
    | UnknownExit
)

#: exit_reason -> the kernel's name, from the binding; two names for one number keep the first.
REASON_NAMES: dict[int, str] = {}
for _name in sorted(n for n in dir(lib) if n.startswith("KVM_EXIT_")):
    # KVM_EXIT_IO_IN, KVM_EXIT_HYPERV_SYNIC and the like are values inside an exit, not reasons.
    if not _name.startswith(
        ("KVM_EXIT_IO_", "KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_HCALL", "KVM_EXIT_HYPERCALL_")
    ):
        REASON_NAMES.setdefault(int(getattr(lib, _name)), _name)
