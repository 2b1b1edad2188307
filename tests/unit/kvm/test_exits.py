# SPDX-License-Identifier: MIT
"""Each exit type, decoded from a struct kvm_run filled by hand."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, assert_never, get_args

import pytest

from kvmharness.kvm import exits
from kvmharness.kvm.exit_reader import read_exit
from kvmharness.kvm.exits import (
    REASON_NAMES,
    AnyExit,
    ApResetHoldExit,
    BusLockExit,
    DebugExit,
    DirtyRingFullExit,
    ExceptionExit,
    Exit,
    FailEntryExit,
    HardwareExit,
    HltExit,
    HypercallExit,
    HypervCallExit,
    HypervDebugExit,
    HypervSynicExit,
    InternalErrorExit,
    InterruptedExit,
    IoapicEoiExit,
    IoExit,
    IrqWindowExit,
    MemoryFaultExit,
    MmioExit,
    MsrExit,
    NmiExit,
    NotifyExit,
    SetTprExit,
    ShutdownExit,
    SnpReqCertsExit,
    SystemEventExit,
    TdxExit,
    TprAccessExit,
    UnknownExit,
    XenExit,
)
from kvmharness.kvm.ffi import ffi, lib

IO_DATA = 4096  # where KVM puts a port access's data: the page behind struct kvm_run


@pytest.fixture
def run() -> Iterator[Any]:
    """A struct kvm_run with a page of port data behind it, all of it 0xEE."""
    memory = ffi.new("char[]", 2 * 4096)
    ffi.buffer(memory)[:] = b"\xee" * 8192
    yield ffi.cast("struct kvm_run *", memory)
    ffi.release(memory)


def port_data(run: Any, data: bytes) -> None:
    ffi.memmove(ffi.cast("char *", run) + IO_DATA, data, len(data))


def decoded(run: Any, number: int = 0) -> AnyExit:
    return read_exit(run, number, 2 * 4096)


def fill_io(run: Any, direction: int, size: int, count: int) -> None:
    run.exit_reason = lib.KVM_EXIT_IO
    run.io.direction = direction
    run.io.port = 0x3F8
    run.io.size = size
    run.io.count = count
    run.io.data_offset = IO_DATA


def test_out(run: Any) -> None:
    fill_io(run, lib.KVM_EXIT_IO_OUT, 2, 3)
    port_data(run, b"abcdef")
    wanted = IoExit(lib.KVM_EXIT_IO, True, 0x3F8, 2, 3, b"abcdef", IO_DATA)
    assert decoded(run) == wanted
    assert decoded(run).name == "KVM_EXIT_IO"


def test_in_has_no_data_yet(run: Any) -> None:
    fill_io(run, lib.KVM_EXIT_IO_IN, 4, 1)
    assert decoded(run) == IoExit(lib.KVM_EXIT_IO, False, 0x3F8, 4, 1, b"", IO_DATA)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio(run: Any, size: int) -> None:
    run.exit_reason = lib.KVM_EXIT_MMIO
    run.mmio.phys_addr = 0xFFFF_FFFF_F000
    run.mmio.len = size
    ffi.buffer(run.mmio.data)[:] = b"12345678"
    run.mmio.is_write = 1
    data = b"12345678"[:size]
    assert decoded(run) == MmioExit(lib.KVM_EXIT_MMIO, True, 0xFFFF_FFFF_F000, size, data)
    run.mmio.is_write = 0
    assert decoded(run) == MmioExit(lib.KVM_EXIT_MMIO, False, 0xFFFF_FFFF_F000, size, b"")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (lib.KVM_EXIT_HLT, HltExit),
        (lib.KVM_EXIT_SHUTDOWN, ShutdownExit),
        (lib.KVM_EXIT_INTR, InterruptedExit),
        (lib.KVM_EXIT_IRQ_WINDOW_OPEN, IrqWindowExit),
        (lib.KVM_EXIT_NMI, NmiExit),
        (lib.KVM_EXIT_DIRTY_RING_FULL, DirtyRingFullExit),
        (lib.KVM_EXIT_AP_RESET_HOLD, ApResetHoldExit),
        (lib.KVM_EXIT_X86_BUS_LOCK, BusLockExit),
    ],
)
def test_exits_without_data(run: Any, reason: int, kind: type[Exit]) -> None:
    run.exit_reason = reason
    exit_: Exit = decoded(run)
    assert type(exit_) is kind
    assert exit_ == kind(reason)


def words(run: Any, *values: int) -> None:
    """Write 64-bit words from the start of kvm_run's union on."""
    union = ffi.cast("unsigned long long *", ffi.addressof(run, "io"))
    for index, value in enumerate(values):
        union[index] = value


TOP = 2**63
#: By name of the reason: the words of the union, as <linux/kvm.h> lays them out, and the exit.
WITH_DATA: dict[str, tuple[tuple[int, ...], Callable[[int], AnyExit]]] = {
    "UNKNOWN": ((TOP,), lambda reason: HardwareExit(reason, TOP)),
    "EXCEPTION": ((5 << 32 | 14,), lambda reason: ExceptionExit(reason, 14, 5)),
    "TPR_ACCESS": ((TOP, 1), lambda reason: TprAccessExit(reason, TOP, True)),
    "IOAPIC_EOI": ((0x31,), lambda reason: IoapicEoiExit(reason, 0x31)),
    "NOTIFY": ((1,), lambda reason: NotifyExit(reason, 1)),
    "TDX": (
        (0, 0x10002, 7, 11, 12, 13, 14, 15),
        lambda reason: TdxExit(reason, 0x10002, 0, (11, 12, 13, 14, 15)),
    ),
    "SNP_REQ_CERTS": ((0x5000, 4, 0), lambda reason: SnpReqCertsExit(reason, 0x5000, 4)),
    # type and padding; msr and padding; control, event page, message page
    "HYPERV": (
        (1, 0x4000_0080, 2, 3, 4),
        lambda reason: HypervSynicExit(reason, 0x4000_0080, 2, 3, 4),
    ),
    # type and padding; longmode and cpl; input, result, params
    "XEN": (
        (1, 3 << 32 | 1, 29, 0, 1, 2, 3, 4, 5, 6),
        lambda reason: XenExit(reason, True, 3, 29, (1, 2, 3, 4, 5, 6)),
    ),
}


@pytest.mark.parametrize("name", WITH_DATA)
def test_exits_with_data(run: Any, name: str) -> None:
    data, wanted = WITH_DATA[name]
    run.exit_reason = getattr(lib, f"KVM_EXIT_{name}")
    words(run, *data)
    exit_ = decoded(run)
    assert exit_ == wanted(run.exit_reason)
    assert exit_.name == f"KVM_EXIT_{name}"


def test_set_tpr_is_in_cr8(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_SET_TPR
    run.cr8 = 9
    assert decoded(run) == SetTprExit(lib.KVM_EXIT_SET_TPR, 9)


def test_hyperv_has_three_kinds(run: Any) -> None:
    run.exit_reason = reason = lib.KVM_EXIT_HYPERV
    words(run, lib.KVM_EXIT_HYPERV_HCALL, 0x5C, 0, 7, TOP)
    assert decoded(run) == HypervCallExit(reason, 0x5C, (7, TOP))
    words(run, lib.KVM_EXIT_HYPERV_SYNDBG, 0x4000_00F1, 1, 2, 3, 4, 5)
    assert decoded(run) == HypervDebugExit(reason, 0x4000_00F1, 1, 2, 3, 4, 5)
    words(run, 99)
    assert isinstance(decoded(run), UnknownExit)


def test_another_xen_exit_is_unknown(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_XEN
    words(run, 2)
    assert isinstance(decoded(run), UnknownExit)


def test_a_notification_says_whether_the_guest_is_lost() -> None:
    assert NotifyExit(lib.KVM_EXIT_NOTIFY, lib.KVM_NOTIFY_CONTEXT_INVALID).context_invalid
    assert not NotifyExit(lib.KVM_EXIT_NOTIFY, 0).context_invalid


def test_a_failed_emulation_shows_its_instruction(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    failure = run.emulation_failure
    failure.suberror = lib.KVM_INTERNAL_ERROR_EMULATION
    failure.ndata = 3
    failure.flags = lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    failure.insn_size = 2
    ffi.memmove(failure.insn_bytes, b"\x0f\x0b\xcc", 3)
    exit_ = decoded(run)
    assert isinstance(exit_, InternalErrorExit)
    assert exit_.instruction == b"\x0f\x0b"
    failure.flags = 0
    plain = decoded(run)
    assert isinstance(plain, InternalErrorExit)
    assert plain.instruction == b""


def test_every_reason_of_the_headers_has_a_type(run: Any) -> None:
    #: Reasons that other architectures alone give.
    elsewhere = {"DCR", "OSI", "WATCHDOG", "EPR"}
    for reason, name in REASON_NAMES.items():
        run.exit_reason = reason
        words(run, 1, 0, 0, 0)
        run.io.size = run.io.count = 0
        known = not isinstance(decoded(run), UnknownExit)
        assert known == (name.removeprefix("KVM_EXIT_") not in elsewhere), name


def test_the_union_has_every_type() -> None:
    kinds = {kind for kind in vars(exits).values() if isinstance(kind, type)}
    assert set(get_args(AnyExit)) == {kind for kind in kinds if issubclass(kind, Exit)} - {Exit}


def test_fail_entry(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_FAIL_ENTRY
    run.fail_entry.hardware_entry_failure_reason = 0x8000_0021
    run.fail_entry.cpu = 5
    assert decoded(run) == FailEntryExit(lib.KVM_EXIT_FAIL_ENTRY, 0x8000_0021, 5)


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (2, 2), (16, 16), (1000, 16)])
def test_internal_error(run: Any, count: int, shown: int) -> None:
    run.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    run.internal.suberror = lib.KVM_INTERNAL_ERROR_EMULATION
    run.internal.ndata = count
    for index in range(16):
        run.internal.data[index] = 100 + index
    wanted = tuple(range(100, 100 + shown))
    assert decoded(run) == InternalErrorExit(lib.KVM_EXIT_INTERNAL_ERROR, 1, wanted)


@pytest.mark.parametrize("number", [errno.EFAULT, 133])
def test_memory_fault(run: Any, number: int) -> None:
    run.exit_reason = lib.KVM_EXIT_MEMORY_FAULT
    run.memory_fault.flags = lib.KVM_MEMORY_EXIT_FLAG_PRIVATE
    run.memory_fault.gpa = 1 << 40
    run.memory_fault.size = 4096
    exit_ = decoded(run, number)
    assert exit_ == MemoryFaultExit(
        lib.KVM_EXIT_MEMORY_FAULT, lib.KVM_MEMORY_EXIT_FLAG_PRIVATE, 1 << 40, 4096, number
    )
    assert isinstance(exit_, MemoryFaultExit)
    assert exit_.wants_private
    run.memory_fault.flags = 0
    again = decoded(run, number)
    assert isinstance(again, MemoryFaultExit)
    assert not again.wants_private


def test_hypercall(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_HYPERCALL
    run.hypercall.nr = 12
    for index in range(6):
        run.hypercall.args[index] = index + 2**63
    run.hypercall.flags = 1
    arguments = tuple(index + 2**63 for index in range(6))
    assert decoded(run) == HypercallExit(lib.KVM_EXIT_HYPERCALL, 12, arguments, 1)


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (16, 16), (99, 16)])
def test_system_event(run: Any, count: int, shown: int) -> None:
    run.exit_reason = lib.KVM_EXIT_SYSTEM_EVENT
    run.system_event.type = lib.KVM_SYSTEM_EVENT_SEV_TERM
    run.system_event.ndata = count
    for index in range(16):
        run.system_event.data[index] = index
    wanted = SystemEventExit(
        lib.KVM_EXIT_SYSTEM_EVENT, lib.KVM_SYSTEM_EVENT_SEV_TERM, tuple(range(shown))
    )
    assert decoded(run) == wanted


@pytest.mark.parametrize(
    ("reason", "is_write"), [(lib.KVM_EXIT_X86_RDMSR, False), (lib.KVM_EXIT_X86_WRMSR, True)]
)
def test_msr(run: Any, reason: int, is_write: bool) -> None:
    run.exit_reason = reason
    run.msr.index = 0xC000_0080
    run.msr.data = 2**64 - 1
    run.msr.reason = lib.KVM_MSR_EXIT_REASON_FILTER
    wanted = MsrExit(reason, is_write, 0xC000_0080, 2**64 - 1, lib.KVM_MSR_EXIT_REASON_FILTER)
    assert decoded(run) == wanted


def test_debug(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_DEBUG
    run.debug.arch.exception = 1
    run.debug.arch.pc = 0x1_0000
    run.debug.arch.dr6 = 0x4000
    run.debug.arch.dr7 = 0x400
    assert decoded(run) == DebugExit(lib.KVM_EXIT_DEBUG, 1, 0x1_0000, 0x4000, 0x400)


@pytest.mark.parametrize("reason", [lib.KVM_EXIT_EPR, 9999])
def test_another_reason_is_unknown_and_shows_its_bytes(run: Any, reason: int) -> None:
    run.exit_reason = reason
    start = ffi.cast("char *", ffi.addressof(run, "io"))
    ffi.memmove(start, b"first bytes", 11)
    exit_ = decoded(run)
    assert isinstance(exit_, UnknownExit)
    assert exit_.reason == reason
    assert exit_.raw == b"first bytes".ljust(256, b"\xee")


def test_every_exit_type_is_tested_here() -> None:
    kinds = {kind for kind in vars(exits).values() if isinstance(kind, type)}
    known = {kind for kind in kinds if issubclass(kind, Exit)} - {Exit}
    assert {kind.__name__ for kind in known} <= set(globals())


def test_every_constant_of_a_reason_has_its_name() -> None:
    for name in ("IO", "MMIO", "HLT", "SHUTDOWN", "MEMORY_FAULT", "X86_RDMSR", "DEBUG", "TDX"):
        if hasattr(lib, f"KVM_EXIT_{name}"):
            assert REASON_NAMES[getattr(lib, f"KVM_EXIT_{name}")] == f"KVM_EXIT_{name}"
    # 0 and 1 are also KVM_EXIT_IO_IN and _OUT, values inside an exit.
    assert REASON_NAMES[0] == "KVM_EXIT_UNKNOWN"
    assert REASON_NAMES[1] == "KVM_EXIT_EXCEPTION"
    assert Exit(12345).name == "KVM_EXIT 12345"


def test_exits_compare_and_can_be_kept_in_sets(run: Any) -> None:
    run.exit_reason = lib.KVM_EXIT_HLT
    assert len({decoded(run), decoded(run)}) == 1


def test_a_match_over_all_exits_is_known_to_be_whole(run: Any) -> None:
    """mypy fails at assert_never() if an exit is left out here."""

    def what(exit_: AnyExit) -> str:
        match exit_:
            case IoExit(port=port, is_out=True) | IoExit(port=port, is_out=False):
                return f"port {port:#x}"
            case MmioExit() | IoExit():
                return "memory"
            case HltExit() | ShutdownExit() | InterruptedExit() | IrqWindowExit() | NmiExit():
                return "no data"
            case FailEntryExit() | InternalErrorExit() | HardwareExit() | ExceptionExit():
                return "bad"
            case MemoryFaultExit(wants_private=True) | MemoryFaultExit():
                return "fault"
            case HypercallExit() | XenExit() | HypervCallExit() | TdxExit() | SnpReqCertsExit():
                return "call"
            case HypervSynicExit() | HypervDebugExit() | SystemEventExit() | MsrExit():
                return "event"
            case DebugExit() | SetTprExit() | TprAccessExit() | IoapicEoiExit() | NotifyExit():
                return "told"
            case DirtyRingFullExit() | ApResetHoldExit() | BusLockExit() | UnknownExit():
                return "other"
            case _:
                assert_never(exit_)

    fill_io(run, lib.KVM_EXIT_IO_IN, 4, 1)
    assert what(decoded(run)) == "port 0x3f8"
    run.exit_reason = lib.KVM_EXIT_DIRTY_RING_FULL
    assert what(decoded(run)) == "other"
