# SPDX-License-Identifier: MIT
"""An exit out of struct kvm_run: a function for each reason, and the table of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from kvmharness.errors import KernelFault
from kvmharness.kvm import exits
from kvmharness.kvm.exits import AnyExit
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import pointer_to

_run = pointer_to("kvm_run")

_EXIT_IO, _EXIT_MEMORY_FAULT = int(lib.KVM_EXIT_IO), int(lib.KVM_EXIT_MEMORY_FAULT)
_IO_OUT = int(lib.KVM_EXIT_IO_OUT)

_REASON_AT = int(ffi.offsetof("struct kvm_run", "exit_reason"))
_IO_AT = int(ffi.offsetof("struct kvm_run", "io"))
#: exit_reason, then io's direction, size, port, count, data_offset: an IN or OUT is what a guest
#: exits for most, and is read in one go.
_read_start = struct.Struct(f"={_REASON_AT}xI{_IO_AT - _REASON_AT - 4}xBBHIQ").unpack_from

#: kvm_run's union, where an exit's data is.
_UNION_BYTES = 256


def read_exit(run: Any, errno: int = 0, size: int | None = None) -> AnyExit:
    """Decode `run` (struct kvm_run *) after a KVM_RUN that returned 0, or failed with `errno`.

    `size` is how many bytes are mapped from there, by default the struct's own: the data of a port
    lies behind it. KernelFault for an exit whose data lies beyond.
    """
    mapped = ffi.sizeof("struct kvm_run") if size is None else size
    return exit_of(run, ffi.buffer(_run(run), mapped), errno)


def exit_of(run: Any, page: Any, errno: int = 0) -> AnyExit:
    """As read_exit(), for a run page that is known to be one: the caller's hot path.

    `page` is what is mapped from `run`, as a buffer.
    """
    reason, direction, each, port, count, offset = _read_start(page)
    if reason == _EXIT_IO:
        end = offset + each * count
        if end > len(page):
            raise KernelFault(
                f"KVM_EXIT_IO with {end - offset} bytes at {offset:#x}, outside the "
                f"{len(page):#x} of kvm_run"
            )
        is_out = direction == _IO_OUT
        data = page[offset:end] if is_out else b""
        return exits.IoExit(_EXIT_IO, is_out, port, each, count, data, offset)
    if reason == _EXIT_MEMORY_FAULT:
        fault = run.memory_fault
        return exits.MemoryFaultExit(
            reason, int(fault.flags), int(fault.gpa), int(fault.size), errno
        )
    reader = _READERS.get(reason, _unknown)
    return reader(reason, run)


#: struct kvmh_io, without its data.
_IO = struct.Struct("=BBHIQ")
_read_io, _IO_SIZE = _IO.unpack_from, _IO.size
_new, _IoExit = object.__new__, exits.IoExit


def io_exit(io: Any) -> exits.IoExit:
    """Make the exit of a struct kvmh_io, given as a buffer: the hottest path of all."""
    made = _new(_IoExit)  # not called: that would take a third longer
    direction, size, made.port, count, made.data_offset = _read_io(io)
    made.reason = _EXIT_IO
    made.size = size
    made.count = count
    if direction == _IO_OUT:
        made.is_out = True
        made.data = io[_IO_SIZE : _IO_SIZE + size * count]
    else:
        made.is_out = False
        made.data = b""
    return made


def _mmio(reason: int, run: Any) -> AnyExit:
    mmio = run.mmio
    data = bytes(ffi.buffer(mmio.data)[: int(mmio.len)]) if mmio.is_write else b""
    return exits.MmioExit(reason, bool(mmio.is_write), int(mmio.phys_addr), int(mmio.len), data)


def _fail_entry(reason: int, run: Any) -> AnyExit:
    entry = run.fail_entry
    return exits.FailEntryExit(reason, int(entry.hardware_entry_failure_reason), int(entry.cpu))


def _internal_error(reason: int, run: Any) -> AnyExit:
    internal = run.internal
    return exits.InternalErrorExit(
        reason, int(internal.suberror), _first(internal.data, int(internal.ndata))
    )


def _system_event(reason: int, run: Any) -> AnyExit:
    event = run.system_event
    return exits.SystemEventExit(reason, int(event.type), _first(event.data, int(event.ndata)))


def _hypercall(reason: int, run: Any) -> AnyExit:
    call = run.hypercall
    return exits.HypercallExit(reason, int(call.nr), _numbers(call.args), int(call.flags))


def _msr(reason: int, run: Any) -> AnyExit:
    msr = run.msr
    is_write = reason == lib.KVM_EXIT_X86_WRMSR
    return exits.MsrExit(reason, is_write, int(msr.index), int(msr.data), int(msr.reason))


def _debug(reason: int, run: Any) -> AnyExit:
    arch = run.debug.arch
    return exits.DebugExit(reason, int(arch.exception), int(arch.pc), int(arch.dr6), int(arch.dr7))


def _hyperv(reason: int, run: Any) -> AnyExit:
    kind, inner = run.hyperv.type, run.hyperv.u
    if kind == lib.KVM_EXIT_HYPERV_SYNIC:
        synic = inner.synic
        return exits.HypervSynicExit(
            reason, int(synic.msr), int(synic.control), int(synic.evt_page), int(synic.msg_page)
        )
    if kind == lib.KVM_EXIT_HYPERV_HCALL:
        call = inner.hcall
        return exits.HypervCallExit(
            reason, int(call.input), (int(call.params[0]), int(call.params[1]))
        )
    if kind == lib.KVM_EXIT_HYPERV_SYNDBG:
        debug = inner.syndbg
        return exits.HypervDebugExit(
            reason,
            int(debug.msr),
            int(debug.control),
            int(debug.status),
            int(debug.send_page),
            int(debug.recv_page),
            int(debug.pending_page),
        )
    return _unknown(reason, run)


def _xen(reason: int, run: Any) -> AnyExit:
    if run.xen.type != lib.KVM_EXIT_XEN_HCALL:
        return _unknown(reason, run)
    call = run.xen.u.hcall
    return exits.XenExit(
        reason, bool(call.longmode), int(call.cpl), int(call.input), _numbers(call.params)
    )


def _tdx(reason: int, run: Any) -> AnyExit:
    tdx = run.tdx
    return exits.TdxExit(reason, int(tdx.nr), int(tdx.flags), _numbers(tdx.unknown.data))


def _unknown(reason: int, run: Any) -> AnyExit:
    raw = ffi.cast("char *", ffi.addressof(run, "io"))
    return exits.UnknownExit(reason, bytes(ffi.buffer(raw, _UNION_BYTES)))


def _numbers(array: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in array)


def _first(array: Any, count: int) -> tuple[int, ...]:
    return tuple(int(array[i]) for i in range(min(count, len(array))))


_READERS: dict[int, Callable[[int, Any], AnyExit]] = {
    lib.KVM_EXIT_UNKNOWN: lambda reason, run: exits.HardwareExit(
        reason, int(run.hw.hardware_exit_reason)
    ),
    lib.KVM_EXIT_EXCEPTION: lambda reason, run: exits.ExceptionExit(
        reason, int(run.ex.exception), int(run.ex.error_code)
    ),
    lib.KVM_EXIT_HYPERCALL: _hypercall,
    lib.KVM_EXIT_DEBUG: _debug,
    lib.KVM_EXIT_HLT: lambda reason, run: exits.HltExit(reason),
    lib.KVM_EXIT_MMIO: _mmio,
    lib.KVM_EXIT_IRQ_WINDOW_OPEN: lambda reason, run: exits.IrqWindowExit(reason),
    lib.KVM_EXIT_SHUTDOWN: lambda reason, run: exits.ShutdownExit(reason),
    lib.KVM_EXIT_FAIL_ENTRY: _fail_entry,
    lib.KVM_EXIT_INTR: lambda reason, run: exits.InterruptedExit(reason),
    lib.KVM_EXIT_SET_TPR: lambda reason, run: exits.SetTprExit(reason, int(run.cr8)),
    lib.KVM_EXIT_TPR_ACCESS: lambda reason, run: exits.TprAccessExit(
        reason, int(run.tpr_access.rip), bool(run.tpr_access.is_write)
    ),
    lib.KVM_EXIT_NMI: lambda reason, run: exits.NmiExit(reason),
    lib.KVM_EXIT_INTERNAL_ERROR: _internal_error,
    lib.KVM_EXIT_SYSTEM_EVENT: _system_event,
    lib.KVM_EXIT_IOAPIC_EOI: lambda reason, run: exits.IoapicEoiExit(reason, int(run.eoi.vector)),
    lib.KVM_EXIT_HYPERV: _hyperv,
    lib.KVM_EXIT_X86_RDMSR: _msr,
    lib.KVM_EXIT_X86_WRMSR: _msr,
    lib.KVM_EXIT_DIRTY_RING_FULL: lambda reason, run: exits.DirtyRingFullExit(reason),
    lib.KVM_EXIT_AP_RESET_HOLD: lambda reason, run: exits.ApResetHoldExit(reason),
    lib.KVM_EXIT_X86_BUS_LOCK: lambda reason, run: exits.BusLockExit(reason),
    lib.KVM_EXIT_XEN: _xen,
    lib.KVM_EXIT_NOTIFY: lambda reason, run: exits.NotifyExit(reason, int(run.notify.flags)),
    lib.KVM_EXIT_TDX: _tdx,
    lib.KVM_EXIT_SNP_REQ_CERTS: lambda reason, run: exits.SnpReqCertsExit(
        reason, int(run.snp_req_certs.gpa), int(run.snp_req_certs.npages)
    ),
}
