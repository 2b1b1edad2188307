# SPDX-License-Identifier: MIT
"""Why KVM_RUN returned: one type per exit reason, read out of struct kvm_run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvmharness.errors import KernelFault
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import pointer_to


@dataclass(frozen=True, slots=True)
class Exit:
    """Any exit; `reason` is kvm_run.exit_reason."""

    reason: int

    @property
    def name(self) -> str:
        """The kernel's name for the reason, such as ``KVM_EXIT_IO``."""
        return REASON_NAMES.get(self.reason, f"KVM_EXIT {self.reason}")


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class MmioExit(Exit):
    """KVM_EXIT_MMIO: an access of `size` bytes at `gpa`, which no memslot backs."""

    is_write: bool
    gpa: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HltExit(Exit):
    """KVM_EXIT_HLT: the guest executed HLT without an in-kernel interrupt controller."""


@dataclass(frozen=True, slots=True)
class ShutdownExit(Exit):
    """KVM_EXIT_SHUTDOWN: a triple fault."""


@dataclass(frozen=True, slots=True)
class FailEntryExit(Exit):
    """KVM_EXIT_FAIL_ENTRY: the hardware refused to enter the guest."""

    hardware_reason: int
    cpu: int


@dataclass(frozen=True, slots=True)
class InternalErrorExit(Exit):
    """KVM_EXIT_INTERNAL_ERROR: KVM gave up; `suberror` 1 is a failed emulation."""

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class HypercallExit(Exit):
    """KVM_EXIT_HYPERCALL: a hypercall that userspace asked for by KVM_CAP_EXIT_HYPERCALL."""

    number: int
    arguments: tuple[int, ...]
    flags: int


@dataclass(frozen=True, slots=True)
class SystemEventExit(Exit):
    """KVM_EXIT_SYSTEM_EVENT: `kind` is KVM_SYSTEM_EVENT_*; `data` its arguments."""

    kind: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MsrExit(Exit):
    """KVM_EXIT_X86_RDMSR or _WRMSR, asked for by KVM_CAP_X86_USER_SPACE_MSR."""

    is_write: bool
    index: int
    data: int
    why: int


@dataclass(frozen=True, slots=True)
class DebugExit(Exit):
    """KVM_EXIT_DEBUG: a breakpoint or single step set by KVM_SET_GUEST_DEBUG."""

    exception: int
    pc: int
    dr6: int
    dr7: int


@dataclass(frozen=True, slots=True)
class InterruptedExit(Exit):
    """KVM_EXIT_INTR: the vCPU was kicked, or a signal came, before the guest exited by itself."""


@dataclass(frozen=True, slots=True)
class UnknownExit(Exit):
    """A reason this package has no type for; `raw` is the exit union's first 256 bytes."""

    raw: bytes


#: exit_reason -> the kernel's name, from the binding; two names for one number keep the first.
REASON_NAMES: dict[int, str] = {}
for _name in sorted(n for n in dir(lib) if n.startswith("KVM_EXIT_")):
    # KVM_EXIT_IO_IN, KVM_EXIT_HYPERV_SYNIC and the like are values inside an exit, not reasons.
    if not _name.startswith(
        ("KVM_EXIT_IO_", "KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_HCALL", "KVM_EXIT_HYPERCALL_")
    ):
        REASON_NAMES.setdefault(int(getattr(lib, _name)), _name)


_run = pointer_to("kvm_run")


def read_exit(run: Any, errno: int = 0, size: int | None = None) -> Exit:
    """Decode `run` (struct kvm_run *) after a KVM_RUN that returned 0, or failed with `errno`.

    `size` is how many bytes are mapped from there, by default the struct's own: the data of a port
    lies behind it. KernelFault for an exit whose data lies beyond.
    """
    return exit_of(_run(run), errno, ffi.sizeof("struct kvm_run") if size is None else size)


def exit_of(run: Any, errno: int, size: int) -> Exit:
    """As read_exit(), for a run page that is known to be one: the caller's hot path."""
    reason = int(run.exit_reason)
    if reason == lib.KVM_EXIT_IO:
        io = run.io
        length, offset = int(io.size) * int(io.count), int(io.data_offset)
        if offset + length > size:
            raise KernelFault(
                f"KVM_EXIT_IO with {length} bytes at {offset:#x}, outside the {size:#x} of kvm_run"
            )
        is_out = io.direction == lib.KVM_EXIT_IO_OUT
        data = bytes(ffi.buffer(ffi.cast("char *", run) + offset, length)) if is_out else b""
        return IoExit(reason, is_out, int(io.port), int(io.size), int(io.count), data, offset)
    if reason == lib.KVM_EXIT_HLT:
        return HltExit(reason)
    if reason == lib.KVM_EXIT_MMIO:
        mmio = run.mmio
        data = bytes(ffi.buffer(mmio.data)[: int(mmio.len)]) if mmio.is_write else b""
        return MmioExit(reason, bool(mmio.is_write), int(mmio.phys_addr), int(mmio.len), data)
    if reason == lib.KVM_EXIT_SHUTDOWN:
        return ShutdownExit(reason)
    if reason == lib.KVM_EXIT_FAIL_ENTRY:
        entry = run.fail_entry
        return FailEntryExit(reason, int(entry.hardware_entry_failure_reason), int(entry.cpu))
    if reason == lib.KVM_EXIT_INTERNAL_ERROR:
        internal = run.internal
        count = min(int(internal.ndata), 16)
        return InternalErrorExit(
            reason, int(internal.suberror), tuple(int(internal.data[i]) for i in range(count))
        )
    if reason == lib.KVM_EXIT_MEMORY_FAULT:
        fault = run.memory_fault
        return MemoryFaultExit(reason, int(fault.flags), int(fault.gpa), int(fault.size), errno)
    if reason == lib.KVM_EXIT_HYPERCALL:
        call = run.hypercall
        return HypercallExit(
            reason, int(call.nr), tuple(int(arg) for arg in call.args), int(call.flags)
        )
    if reason == lib.KVM_EXIT_SYSTEM_EVENT:
        event = run.system_event
        count = min(int(event.ndata), 16)
        return SystemEventExit(
            reason, int(event.type), tuple(int(event.data[i]) for i in range(count))
        )
    if reason in (lib.KVM_EXIT_X86_RDMSR, lib.KVM_EXIT_X86_WRMSR):
        msr = run.msr
        is_write = reason == lib.KVM_EXIT_X86_WRMSR
        return MsrExit(reason, is_write, int(msr.index), int(msr.data), int(msr.reason))
    if reason == lib.KVM_EXIT_DEBUG:
        arch = run.debug.arch
        return DebugExit(reason, int(arch.exception), int(arch.pc), int(arch.dr6), int(arch.dr7))
    if reason == lib.KVM_EXIT_INTR:
        return InterruptedExit(reason)
    raw = ffi.cast("char *", ffi.addressof(run, "io"))
    return UnknownExit(reason, bytes(ffi.buffer(raw, 256)))
