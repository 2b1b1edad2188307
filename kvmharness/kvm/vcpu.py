# SPDX-License-Identifier: MIT
"""A vCPU fd: registers, KVM_RUN with a deadline, and the typed exit it ends in."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvmharness.errors import HarnessError, KernelFault, RunTimeout
from kvmharness.kvm import ioctl
from kvmharness.kvm.answers import AnswersCalls
from kvmharness.kvm.caps import Cap, enable_cap
from kvmharness.kvm.clock import VcpuClockCalls, VcpuClockTry
from kvmharness.kvm.coalesced import VcpuCoalescedCalls
from kvmharness.kvm.debug import DebugCalls, DebugTry
from kvmharness.kvm.dirty import VcpuDirtyCalls
from kvmharness.kvm.events import EventsCalls, EventsTry
from kvmharness.kvm.exit_reader import exit_of, io_exit
from kvmharness.kvm.exits import AnyExit, InterruptedExit, IoExit, MmioExit
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import bytes_up_to, make, u64
from kvmharness.kvm.fpu import FpuCalls, FpuTry
from kvmharness.kvm.hyperv import VcpuHypervCalls, VcpuHypervTry
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.lapic import LapicCalls, LapicTry
from kvmharness.kvm.mapping import MAP_SHARED, map_memory
from kvmharness.kvm.mce import McheckCalls, McheckTry
from kvmharness.kvm.memory_encrypt import TdxCommand, memory_encrypt_op
from kvmharness.kvm.memslots import Memslots
from kvmharness.kvm.nested import NestedCalls, NestedTry
from kvmharness.kvm.registers import RegistersCalls, RegistersTry
from kvmharness.kvm.result import KvmError, Result
from kvmharness.kvm.run_page import KvmRun
from kvmharness.kvm.stats import VcpuStatsCalls, VcpuStatsTry
from kvmharness.kvm.structs import Struct, of_type
from kvmharness.kvm.until import Stretch, Until

EHWPOISON = 133  # not in Python 3.11's errno; asm-generic/errno.h

#: What an errno of KVM_RUN says, which is seldom what the same one says of another ioctl.
_RUN_MEANING = {
    errno.EFAULT: "the guest touched a memslot whose memory the host can't reach: unmapped, "
    "protected, cut off by the end of its file, or its guest_memfd is closed",
    EHWPOISON: "the guest touched a page whose memory has failed",
    errno.EINVAL: "the vCPU can't be entered as it is: its launch is not finished (SEV-ES, SNP, "
    "TDX), its registers are impossible, or kvm_dirty_regs has a bit that is not known",
    errno.EIO: "the VM is dead after a bug that KVM found in itself (the kernel log has a WARN), "
    "or another process made it",
    errno.ENOEXEC: "the vCPU was not initialized",
    errno.EPERM: "the guest may not run: its launch is not finished or this user may not",
    errno.ENOMEM: "the kernel has no memory for the guest's page tables or its pages",
    errno.ENOTTY: "the fd is no vCPU's",
    errno.EBADF: "the vCPU is closed",
}


#: KVM_RUN fails with these and still fills in an exit (KVM_EXIT_MEMORY_FAULT).
_FAULT_ERRNOS = (errno.EFAULT, EHWPOISON)

#: KVM_RUN fails with these and is to be issued again. EAGAIN: the vCPU waited for INIT or SIPI and
#: was woken, as a rule by just that (kvm_arch_vcpu_ioctl_run).
_GO_ON = (errno.EINTR, errno.ETIME, errno.EAGAIN)

#: Nanoseconds from now that never come.
_NO_DEADLINE = 1 << 62
_FOREVER = float("inf")

#: The longest one KVM_RUN lasts. A Ctrl-C that arrives after the interpreter last looked and before
#: the kernel is entered interrupts nothing: it is seen when the slice ends.
_SLICE_NS = 250_000_000

#: What ioctl.run_vcpu() returns when it has not claimed the vCPU.
_NOT_CLAIMED = (lib.KVMH_CLOSED, lib.KVMH_BUSY)

#: A string instruction can exit once for each of its elements.
_SETTLE_EXITS = 4096

#: kvm_run.mmio.data
_MMIO_BYTES = 8

#: How long close() waits for the thread that runs the vCPU to leave it.
_LEAVE_SECONDS = 10.0

_new = object.__new__


class VcpuTry(
    RegistersTry,
    FpuTry,
    EventsTry,
    DebugTry,
    LapicTry,
    NestedTry,
    McheckTry,
    VcpuClockTry,
    VcpuHypervTry,
    VcpuStatsTry,
):
    """The calls a vCPU fd takes, each giving a Result."""

    _vcpu: Vcpu

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu

    def get_msrs(self, indices: Iterable[int]) -> Result[dict[int, int]]:
        """KVM_GET_MSRS: the value maps each index that could be read to its contents.

        ``ret`` is how many were read: the kernel stops at the first that it can't.
        """
        msrs = _msrs([(index, 0) for index in indices])
        result = ioctl.call(self._vcpu.fileno(), "KVM_GET_MSRS", msrs)
        read = range(min(result.ret, int(msrs.nmsrs)))
        got = {int(msrs.entries[i].index): int(msrs.entries[i].data) for i in read}
        return result.with_value(got)

    def set_msrs(self, values: Mapping[int, int]) -> Result[int]:
        """KVM_SET_MSRS: the value is how many were set; the kernel stops at the first refusal."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_MSRS", _msrs(list(values.items())))

    def pre_fault_memory(self, gpa: int, size: int, flags: int = 0) -> Result[int]:
        """KVM_PRE_FAULT_MEMORY (6.11): map `size` bytes from `gpa` in the second-level table.

        The kernel advances the range as it goes: ``written_back`` is (gpa, size). ENOTTY where
        the kernel lacks it, ENOENT without a memslot, EINVAL for an unaligned or empty range.
        """
        arguments = make("struct kvm_pre_fault_memory *", gpa=gpa, size=size, flags=flags)
        return ioctl.call(
            self._vcpu.fileno(),
            "KVM_PRE_FAULT_MEMORY",
            arguments,
            written_back=lambda: (int(arguments.gpa), int(arguments.size)),
        )

    def interrupt(self, vector: int) -> Result[int]:
        """KVM_INTERRUPT: queue `vector`; without an in-kernel interrupt controller only."""
        arguments = make("struct kvm_interrupt *", irq=vector)
        return ioctl.call(self._vcpu.fileno(), "KVM_INTERRUPT", arguments)

    def enable_cap(self, capability: Cap | int, *args: int) -> Result[int]:
        """KVM_ENABLE_CAP on the vCPU: `args` are up to four u64."""
        return enable_cap(self._vcpu, capability, args)

    def get_mp_state(self) -> Result[int]:
        """KVM_GET_MP_STATE: KVM_MP_STATE_RUNNABLE and so on."""
        state = ffi.new("struct kvm_mp_state *")
        result = ioctl.call(self._vcpu.fileno(), "KVM_GET_MP_STATE", state)
        return result.with_value(int(state.mp_state))

    def set_mp_state(self, value: int) -> Result[int]:
        """KVM_SET_MP_STATE: runnable, halted, or waiting for INIT or SIPI."""
        state = make("struct kvm_mp_state *", mp_state=value)
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_MP_STATE", state)

    def memory_encrypt_op(
        self, command: TdxCommand, *, show: Struct | None = None, name: str = ""
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the vCPU, which a TD's takes.

        `show` and `name` are for a trace: what `command` points to, and the sub-command's name.
        """
        of_type(TdxCommand, command)
        shown = None if show is None else show.pointer
        return memory_encrypt_op(self._vcpu, command, shown, name)


class Vcpu(
    RegistersCalls,
    FpuCalls,
    EventsCalls,
    DebugCalls,
    LapicCalls,
    NestedCalls,
    McheckCalls,
    VcpuClockCalls,
    VcpuHypervCalls,
    VcpuStatsCalls,
    VcpuDirtyCalls,
    VcpuCoalescedCalls,
    AnswersCalls,
    OwnedFd,
):
    """A vCPU, made by ``Vm.create_vcpu``.

    Runs on whichever thread calls run(), one at a time: the kernel makes a second KVM_RUN wait in a
    way that only a fatal signal ends, so no deadline could be kept.
    """

    def __init__(
        self, fd: int, vcpu_id: int, mmap_size: int, memslots: Memslots | None = None
    ) -> None:
        super().__init__(fd)
        self.id = vcpu_id
        # The guest's memory is in use through this fd too, whatever becomes of the VM's.
        self._memslots = memslots.hold() if memslots is not None else None
        try:
            self._mapping = map_memory(mmap_size, flags=MAP_SHARED, fd=fd)
        except BaseException:
            self.close()
            raise
        # Whoever keeps it past close() finds zeros there, and no hole.
        self._kvm_run = self._mapping.pointer("struct kvm_run *")
        self._page = ffi.buffer(self._kvm_run, mmap_size)
        #: Who runs it, and whether it was kicked: the shim's.
        self._state = ffi.new("struct kvmh_vcpu *")
        lib.kvmh_open_vcpu(self._state, fd, self._kvm_run, mmap_size)
        self._io = ffi.buffer(ffi.addressof(self._state, "io"))
        # Re-entrant: a Python signal handler may answer an exit while this thread does.
        self._lock = threading.RLock()

    @property
    def try_(self) -> VcpuTry:
        """The same calls, each giving a Result."""
        made: VcpuTry = _new(VcpuTry)  # not called: that would take twice as long
        made._vcpu = self
        return made

    @property
    def kvm_run(self) -> KvmRun:
        """The run page, typed. HarnessError once the vCPU is closed, also from one kept."""
        self._check_open()
        return KvmRun.mapped(self._mapping)

    @property
    def _open_run(self) -> Any:
        self._check_open()
        return self._kvm_run

    get_msrs = raising(VcpuTry.get_msrs)
    set_msrs = raising(VcpuTry.set_msrs)
    pre_fault_memory = raising(VcpuTry.pre_fault_memory)
    interrupt = raising(VcpuTry.interrupt)
    enable_cap = raising(VcpuTry.enable_cap)
    get_mp_state = raising(VcpuTry.get_mp_state)
    set_mp_state = raising(VcpuTry.set_mp_state)
    memory_encrypt_op = raising(VcpuTry.memory_encrypt_op)

    def run(self, timeout: float | None = None) -> AnyExit:
        """KVM_RUN: run until the guest exits, at most `timeout` seconds; None is no deadline.

        Raises RunTimeout at the deadline, also when the kernel itself loops, KvmError when
        KVM_RUN fails (EBADF once closed), HarnessError while another thread runs the vCPU. A kick
        ends it as InterruptedExit; a Python signal handler runs, and may raise, in between. A vCPU
        that waits for INIT and SIPI goes on to run when they come.
        """
        state = self._state
        try:
            ret = ioctl.run_vcpu(state, _FOREVER if timeout is None else timeout)
            if ret == 1:
                return io_exit(self._io)
            if ret not in _NOT_CLAIMED:
                return self._run_on(ret, timeout)
        except BaseException:
            lib.kvmh_release(state)
            raise
        raise self._not_claimed(ret)

    def _run_on(self, ret: int, timeout: float | None) -> AnyExit:
        """Go on after KVM_RUN returned `ret`, until an exit or the deadline, and end the claim."""
        state = self._state
        while ret != 1:
            ended = exit_of(self._kvm_run, self._page) if ret == 0 else self._ended_early(-ret)
            if ended is not None:
                lib.kvmh_release(state)
                return ended
            left = int(state.deadline) - time.monotonic_ns()
            if left <= 0:
                raise RunTimeout(self._timeout_message(timeout or 0))
            ret = ioctl.run_on(state, left if left < _SLICE_NS else _SLICE_NS)
        return io_exit(self._io)

    def run_until(
        self,
        timeout: float | None = None,
        *,
        output: Iterable[int] = (),
        pass_over: Iterable[int] = (),
        most: int | None = None,
    ) -> Stretch:
        """KVM_RUN again and again, without the interpreter's lock, until an exit for the caller.

        What the guest writes to the ports in `output` is kept, and exits of the reasons in
        `pass_over` (KVM_EXIT_*) are only counted: neither ends the stretch. An IN or a load among
        these gets what its last exit left in kvm_run. `most` exits end it, or a kick, or `timeout`
        (seconds; None is no deadline), which is no error here. Raises otherwise as run() does.
        """
        left = _NO_DEADLINE if timeout is None else max(int(timeout * 1e9), 1)
        deadline = time.monotonic_ns() + left
        until = Until(output, pass_over, most)
        self._claim()
        kvm_run, size = self._kvm_run, self._mapping.size
        try:
            while not until.done:
                slice_ns = left if left < _SLICE_NS else _SLICE_NS
                ret = ioctl.run_until(self._fd, kvm_run, size, slice_ns, until.c)
                if ret == 0:
                    exit_ = exit_of(kvm_run, self._page)
                    if not until.keeps(exit_):
                        return until.stretch(exit_)
                elif ret < 0:
                    ended = self._ended_early(-ret)
                    if ended is not None:
                        return until.stretch(ended)
                left = deadline - time.monotonic_ns()
                if left <= 0:
                    return until.stretch(None, timed_out=not until.done)
            return until.stretch(None)
        finally:
            lib.kvmh_release(self._state)

    def _ended_early(self, number: int) -> AnyExit | None:
        """Say what KVM_RUN's errno comes to: an exit, or None to go on if there is time.

        Raises the KvmError of the others.
        """
        if number in _GO_ON:
            kicked = lib.kvmh_take_kick(self._state)
            return InterruptedExit(lib.KVM_EXIT_INTR) if kicked else None
        fault = self._kvm_run.exit_reason == lib.KVM_EXIT_MEMORY_FAULT
        if number in _FAULT_ERRNOS and fault:
            return exit_of(self._kvm_run, self._page, number)
        raise self._run_failed(number)

    def settle(self) -> None:
        """KVM_RUN with immediate_exit: finish the instruction that caused the last exit, no more.

        An IN, OUT or MMIO access is completed by the KVM_RUN after its exit: without this,
        registers set in between may be overwritten (Documentation/virt/kvm/api.rst, KVM_RUN).
        """
        self._claim()
        try:
            for _ in range(_SETTLE_EXITS):
                self._kvm_run.immediate_exit = 1
                ret = ioctl.run(self.fileno(), self._kvm_run, _SLICE_NS)
                if ret == -errno.EINTR:
                    return
                if ret < 0:
                    raise self._run_failed(-ret)
            raise KernelFault(f"vCPU {self.id} is still inside one instruction's exits")
        finally:
            self._kvm_run.immediate_exit = int(self._state.kicked)
            lib.kvmh_release(self._state)

    def kick(self) -> None:
        """Make the vCPU leave KVM_RUN, or its next KVM_RUN return at once, from any thread."""
        lib.kvmh_kick(self._state)

    def complete_io(self, exit_: IoExit | MmioExit, data: bytes) -> None:
        """Give a read its answer: `data` is what the guest's IN or load gets at its next run.

        Less than the access takes is padded by zeros; more is ValueError, and so is an exit whose
        data lies outside the run page. HarnessError once the vCPU is closed.
        """
        if isinstance(exit_, IoExit):
            size, offset = exit_.size * exit_.count, exit_.data_offset
        else:
            size = exit_.size
            offset = int(ffi.offsetof("struct kvm_run", "mmio", "data"))
            if size > _MMIO_BYTES:
                raise ValueError(f"size: an MMIO exit has up to {_MMIO_BYTES} bytes, not {size}")
        if size < 0 or offset < 0 or offset + size > self._mapping.size:
            raise ValueError(
                f"the exit's data, {size} bytes at {offset:#x}, lies outside the "
                f"{self._mapping.size:#x} bytes of kvm_run"
            )
        answer = bytes_up_to("data", data, size).ljust(size, b"\0")
        with self._lock:
            self._check_open()
            ffi.memmove(ffi.cast("char *", self._kvm_run) + offset, answer, size)

    def complete_msr(self, data: int = 0, *, error: bool = False) -> None:
        """Answer a MsrExit: the value a RDMSR gets, or with `error` a #GP."""
        value = u64("data", data)
        with self._lock:
            self._check_open()
            self._kvm_run.msr.data = value
            self._kvm_run.msr.error = int(bool(error))

    def complete_hypercall(self, value: int) -> None:
        """Answer a HypercallExit: what the guest finds in RAX."""
        bits = u64("value", value)
        with self._lock:
            self._check_open()
            self._kvm_run.hypercall.ret = bits

    def close(self) -> None:
        """Unmap struct kvm_run and close the fd, once the thread that runs the vCPU has left.

        HarnessError from a signal handler that interrupted run() on this very thread: raise there
        instead, and close afterwards.
        """
        if not hasattr(self, "_lock"):  # __init__ failed before there was a mapping
            self._close_fd()
            return
        deadline = time.monotonic() + _LEAVE_SECONDS
        while True:
            running_in = lib.kvmh_close_vcpu(self._state)
            if not running_in:
                with self._lock:
                    self._mapping.close()
                    self._close_fd()
                return
            if running_in == lib.kvmh_thread_id():
                raise HarnessError(f"vCPU {self.id} can't be closed inside its own run()")
            # The run page is written to from that thread's signal handler: it has to stay mapped.
            self.kick()
            if time.monotonic() > deadline:
                raise RunTimeout(
                    f"vCPU {self.id} did not leave KVM_RUN within {_LEAVE_SECONDS:g} s: not closed"
                )
            time.sleep(0.001)

    def _close_fd(self) -> None:
        super().close()
        memslots, self._memslots = self._memslots, None
        if memslots is not None:
            memslots.release()

    def _check_open(self) -> None:
        if self.closed:
            raise HarnessError(f"vCPU {self.id} is closed: its kvm_run is unmapped")

    def _claim(self) -> None:
        """Run the vCPU on this thread from now on; kvmh_release() ends that."""
        ret = lib.kvmh_claim(self._state)
        if ret:
            raise self._not_claimed(ret)

    def _not_claimed(self, ret: int) -> HarnessError:
        if ret == lib.KVMH_BUSY:
            return HarnessError(
                f"vCPU {self.id} is being run by thread {self._state.running_in}: kick it first"
            )
        meaning = _RUN_MEANING[errno.EBADF]
        return KvmError(Result("KVM_RUN", -1, errno.EBADF, meaning=meaning))

    def _run_failed(self, number: int) -> KvmError:
        """Make the error of a KVM_RUN that failed: where the guest was, and what that means."""
        where = f"vCPU {self.id}"
        regs = self.try_.get_regs()
        if regs.ok and regs.value is not None:
            where += f", rip {regs.value.rip:#x}{self._gpa_of(regs.value.rip)}"
        if self._kvm_run.exit_reason == lib.KVM_EXIT_MEMORY_FAULT:
            fault = self._kvm_run.memory_fault
            where += f", the last fault at gpa {int(fault.gpa):#x} (size {int(fault.size):#x})"
        meaning = _RUN_MEANING.get(number, "")
        return KvmError(Result("KVM_RUN", -1, number, meaning=meaning, arguments=where))

    def _gpa_of(self, rip: int) -> str:
        """Say where in guest memory `rip` lies, if KVM can tell: KVM_TRANSLATE."""
        sregs = self.try_.get_sregs()
        if not sregs.ok or sregs.value is None:
            return ""
        linear = rip + sregs.value.cs.base & (2**64 - 1)
        where = make("struct kvm_translation *", linear_address=linear)
        if not ioctl.call(self.fileno(), "KVM_TRANSLATE", where).ok or not where.valid:
            return ""
        return f" (gpa {int(where.physical_address):#x})"

    def _timeout_message(self, timeout: float) -> str:
        if self.try_.get_mp_state().value == lib.KVM_MP_STATE_UNINITIALIZED:
            return (
                f"vCPU {self.id} did not exit within {timeout:g} s: it waits for INIT and SIPI "
                "from another vCPU, which has to run"
            )
        where = ""
        regs = self.try_.get_regs()
        if regs.ok and regs.value is not None:
            where = f", rip {regs.value.rip:#x}"
        return (
            f"vCPU {self.id} did not exit within {timeout:g} s{where}: the guest loops, waits for "
            "an interrupt that never comes, or the kernel loops inside KVM_RUN"
        )


def _msrs(values: Sequence[tuple[int, int]]) -> Any:
    """Return the ``struct kvm_msrs *`` of (index, data) pairs."""
    msrs = ffi.new("struct kvm_msrs *", {"nmsrs": len(values), "entries": len(values)})
    for position, (index, data) in enumerate(values):
        entry = make("struct kvm_msr_entry *", index=index, data=data)
        msrs.entries[position] = entry[0]
    return msrs
