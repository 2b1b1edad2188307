# SPDX-License-Identifier: MIT
"""A vCPU fd: registers, KVM_RUN with a deadline, and the typed exit it ends in."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from kvmharness.errors import HarnessError, KernelFault, RunTimeout
from kvmharness.kvm import ioctl
from kvmharness.kvm.exits import Exit, InterruptedExit, IoExit, MmioExit, read_exit
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import MAP_SHARED, map_memory
from kvmharness.kvm.result import KvmError, Result

EHWPOISON = 133  # not in Python 3.11's errno; asm-generic/errno.h

#: KVM_RUN fails with these and still fills in an exit (KVM_EXIT_MEMORY_FAULT).
_FAULT_ERRNOS = (errno.EFAULT, EHWPOISON)

#: The longest one KVM_RUN lasts. A Ctrl-C that arrives after the interpreter last looked and before
#: the kernel is entered interrupts nothing: it is seen when the slice ends.
_SLICE_NS = 250_000_000

#: A string instruction can exit once for each of its elements.
_SETTLE_EXITS = 4096

#: How long close() waits for the thread that runs the vCPU to leave it.
_LEAVE_SECONDS = 10.0


class VcpuTry:
    """The calls a vCPU fd takes, each giving a Result."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu

    def _get(self, name: str, kind: str) -> Result[Any]:
        data = ffi.new(f"struct {kind} *")
        return ioctl.call(self._vcpu.fileno(), name, data).with_value(data)

    def get_regs(self) -> Result[Any]:
        """KVM_GET_REGS: the value is a ``struct kvm_regs *``."""
        return self._get("KVM_GET_REGS", "kvm_regs")

    def set_regs(self, regs: Any) -> Result[int]:
        """KVM_SET_REGS of a ``struct kvm_regs *``."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_REGS", regs)

    def get_sregs(self) -> Result[Any]:
        """KVM_GET_SREGS: segments, control registers, EFER; a ``struct kvm_sregs *``."""
        return self._get("KVM_GET_SREGS", "kvm_sregs")

    def set_sregs(self, sregs: Any) -> Result[int]:
        """KVM_SET_SREGS of a ``struct kvm_sregs *``. EINVAL: an impossible combination."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_SREGS", sregs)

    def set_cpuid2(self, cpuid: Any) -> Result[int]:
        """KVM_SET_CPUID2 of a ``struct kvm_cpuid2 *``, such as ``Kvm.get_supported_cpuid()``."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_CPUID2", cpuid)

    def get_msrs(self, indices: Iterable[int]) -> Result[dict[int, int]]:
        """KVM_GET_MSRS: the value maps each index that could be read to its contents.

        ``ret`` is how many were read: the kernel stops at the first that it can't.
        """
        wanted = list(indices)
        msrs = ffi.new("struct kvm_msrs *", {"entries": len(wanted)})
        msrs.nmsrs = len(wanted)
        for entry, index in zip(msrs.entries, wanted, strict=False):
            entry.index = index
        result = ioctl.call(self._vcpu.fileno(), "KVM_GET_MSRS", msrs)
        got = {int(msrs.entries[i].index): int(msrs.entries[i].data) for i in range(result.ret)}
        return result.with_value(got)

    def set_msrs(self, values: Mapping[int, int]) -> Result[int]:
        """KVM_SET_MSRS: the value is how many were set; the kernel stops at the first refusal."""
        msrs = ffi.new("struct kvm_msrs *", {"entries": len(values)})
        msrs.nmsrs = len(values)
        for position, (index, data) in enumerate(values.items()):
            msrs.entries[position].index = index
            msrs.entries[position].data = data
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_MSRS", msrs)

    def pre_fault_memory(self, gpa: int, size: int, flags: int = 0) -> Result[int]:
        """KVM_PRE_FAULT_MEMORY (6.11): map `size` bytes from `gpa` in the second-level table.

        The kernel advances the range as it goes: ``written_back`` is (gpa, size). ENOTTY where
        the kernel lacks it, ENOENT without a memslot, EINVAL for an unaligned or empty range.
        """
        arguments = ffi.new("struct kvm_pre_fault_memory *")
        arguments.gpa = gpa
        arguments.size = size
        arguments.flags = flags
        return ioctl.call(
            self._vcpu.fileno(),
            "KVM_PRE_FAULT_MEMORY",
            arguments,
            written_back=lambda: (int(arguments.gpa), int(arguments.size)),
        )

    def interrupt(self, vector: int) -> Result[int]:
        """KVM_INTERRUPT: queue `vector`; without an in-kernel interrupt controller only."""
        arguments = ffi.new("struct kvm_interrupt *")
        arguments.irq = vector
        return ioctl.call(self._vcpu.fileno(), "KVM_INTERRUPT", arguments)

    def set_guest_debug(self, control: int) -> Result[int]:
        """KVM_SET_GUEST_DEBUG: `control` is KVM_GUESTDBG_*; single-step exits as DebugExit."""
        debug = ffi.new("struct kvm_guest_debug *")
        debug.control = control
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_GUEST_DEBUG", debug)

    def enable_cap(self, capability: int, *args: int) -> Result[int]:
        """KVM_ENABLE_CAP on the vCPU: `args` are up to four u64."""
        arguments = ffi.new("struct kvm_enable_cap *")
        arguments.cap = capability
        for index, value in enumerate(args):
            arguments.args[index] = value
        return ioctl.call(self._vcpu.fileno(), "KVM_ENABLE_CAP", arguments)

    def get_mp_state(self) -> Result[int]:
        """KVM_GET_MP_STATE: KVM_MP_STATE_RUNNABLE and so on."""
        state = ffi.new("struct kvm_mp_state *")
        result = ioctl.call(self._vcpu.fileno(), "KVM_GET_MP_STATE", state)
        return result.with_value(int(state.mp_state))

    def set_mp_state(self, value: int) -> Result[int]:
        """KVM_SET_MP_STATE: runnable, halted, or waiting for INIT or SIPI."""
        state = ffi.new("struct kvm_mp_state *")
        state.mp_state = value
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_MP_STATE", state)

    def memory_encrypt_op(self, command: Any, *, show: Any = None, name: str = "") -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the vCPU: `command` is a struct kvm_tdx_cmd *."""
        return ioctl.call(
            self._vcpu.fileno(),
            "KVM_MEMORY_ENCRYPT_OP",
            command,
            show=show,
            command=name,
            fw_error=lambda: int(command.hw_error),
        )


class Vcpu(OwnedFd):
    """A vCPU, made by ``Vm.create_vcpu``; ``kvm_run`` is its mapped ``struct kvm_run *``.

    Runs on whichever thread calls run(), one at a time: the kernel makes a second KVM_RUN wait in a
    way that only a fatal signal ends, so no deadline could be kept.
    """

    def __init__(self, fd: int, vcpu_id: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.id = vcpu_id
        try:
            self._mapping = map_memory(mmap_size, flags=MAP_SHARED, fd=fd)
        except BaseException:
            self.close()
            raise
        self.kvm_run = ffi.cast("struct kvm_run *", self._mapping.address)
        self._running_in = 0
        self._kicked = False
        # Re-entrant: a Python signal handler may kick the vCPU its own thread is running.
        self._lock = threading.RLock()

    @property
    def try_(self) -> VcpuTry:
        """The same calls, each giving a Result."""
        return VcpuTry(self)

    get_regs = raising(VcpuTry.get_regs)
    set_regs = raising(VcpuTry.set_regs)
    get_sregs = raising(VcpuTry.get_sregs)
    set_sregs = raising(VcpuTry.set_sregs)
    set_cpuid2 = raising(VcpuTry.set_cpuid2)
    get_msrs = raising(VcpuTry.get_msrs)
    set_msrs = raising(VcpuTry.set_msrs)
    pre_fault_memory = raising(VcpuTry.pre_fault_memory)
    interrupt = raising(VcpuTry.interrupt)
    set_guest_debug = raising(VcpuTry.set_guest_debug)
    enable_cap = raising(VcpuTry.enable_cap)
    get_mp_state = raising(VcpuTry.get_mp_state)
    set_mp_state = raising(VcpuTry.set_mp_state)
    memory_encrypt_op = raising(VcpuTry.memory_encrypt_op)

    def run(self, timeout: float) -> Exit:
        """KVM_RUN: run until the guest exits, at most `timeout` seconds.

        Raises RunTimeout at the deadline, also when the kernel itself loops, KvmError when
        KVM_RUN fails (EBADF once closed), HarnessError while another thread runs the vCPU. A kick
        ends it as InterruptedExit; a Python signal handler runs, and may raise, in between.
        """
        deadline = time.monotonic_ns() + max(int(timeout * 1e9), 1)
        self._begin_run()
        try:
            while True:
                left = deadline - time.monotonic_ns()
                ret = ioctl.run(self.fileno(), self.kvm_run, min(left, _SLICE_NS))
                if ret >= 0:
                    return read_exit(self.kvm_run)
                number = -ret
                if number in (errno.EINTR, errno.ETIME):
                    if self._take_kick():
                        return InterruptedExit(lib.KVM_EXIT_INTR)
                    if time.monotonic_ns() >= deadline:
                        raise RunTimeout(self._timeout_message(timeout))
                    continue
                fault = self.kvm_run.exit_reason == lib.KVM_EXIT_MEMORY_FAULT
                if number in _FAULT_ERRNOS and fault:
                    return read_exit(self.kvm_run, number)
                raise KvmError(Result("KVM_RUN", -1, number))
        finally:
            with self._lock:
                self._running_in = 0

    def settle(self) -> None:
        """KVM_RUN with immediate_exit: finish the instruction that caused the last exit, no more.

        An IN, OUT or MMIO access is completed by the KVM_RUN after its exit: without this,
        registers set in between may be overwritten (Documentation/virt/kvm/api.rst, KVM_RUN).
        """
        self._begin_run()
        try:
            for _ in range(_SETTLE_EXITS):
                self.kvm_run.immediate_exit = 1
                ret = ioctl.run(self.fileno(), self.kvm_run, _SLICE_NS)
                if ret == -errno.EINTR:
                    return
                if ret < 0:
                    raise KvmError(Result("KVM_RUN", -1, -ret))
            raise KernelFault(f"vCPU {self.id} is still inside one instruction's exits")
        finally:
            with self._lock:
                self.kvm_run.immediate_exit = int(self._kicked)
                self._running_in = 0

    def kick(self) -> None:
        """Make the vCPU leave KVM_RUN, or its next KVM_RUN return at once, from any thread."""
        with self._lock:
            if self.closed:
                return
            self._kicked = True
            # Under the lock: the thread can't end between the look and the signal.
            lib.kvmh_kick(self.kvm_run, self._running_in)

    def complete_io(self, exit_: IoExit | MmioExit, data: bytes) -> None:
        """Give a read its answer: `data` is what the guest's IN or load gets at its next run."""
        if isinstance(exit_, IoExit):
            target = ffi.cast("char *", self.kvm_run) + exit_.data_offset
            ffi.memmove(target, data, min(len(data), exit_.size * exit_.count))
        else:
            ffi.memmove(self.kvm_run.mmio.data, data, min(len(data), 8))

    def complete_msr(self, data: int = 0, *, error: bool = False) -> None:
        """Answer a MsrExit: the value a RDMSR gets, or with `error` a #GP."""
        self.kvm_run.msr.data = data
        self.kvm_run.msr.error = int(error)

    def complete_hypercall(self, value: int) -> None:
        """Answer a HypercallExit: what the guest finds in RAX."""
        self.kvm_run.hypercall.ret = value

    def close(self) -> None:
        """Unmap struct kvm_run and close the fd, once the thread that runs the vCPU has left.

        HarnessError from a signal handler that interrupted run() on this very thread: raise there
        instead, and close afterwards.
        """
        if not hasattr(self, "_lock"):  # __init__ failed before there was a mapping
            super().close()
            return
        deadline = time.monotonic() + _LEAVE_SECONDS
        while True:
            with self._lock:
                if not self._running_in:
                    self._mapping.close()
                    super().close()
                    return
                if self._running_in == lib.kvmh_thread_id():
                    raise HarnessError(f"vCPU {self.id} can't be closed inside its own run()")
            # The run page is written to from that thread's signal handler: it has to stay mapped.
            self.kick()
            if time.monotonic() > deadline:
                raise RunTimeout(
                    f"vCPU {self.id} did not leave KVM_RUN within {_LEAVE_SECONDS:g} s: not closed"
                )
            time.sleep(0.001)

    def _begin_run(self) -> None:
        with self._lock:
            if self.closed:
                raise KvmError(Result("KVM_RUN", -1, errno.EBADF))
            if self._running_in:
                raise HarnessError(
                    f"vCPU {self.id} is being run by thread {self._running_in}: kick it first"
                )
            self._running_in = lib.kvmh_thread_id()

    def _take_kick(self) -> bool:
        with self._lock:
            kicked, self._kicked = self._kicked, False
            if kicked:
                self.kvm_run.immediate_exit = 0
            return kicked

    def _timeout_message(self, timeout: float) -> str:
        where = ""
        regs = self.try_.get_regs()
        if regs.ok and regs.value is not None:
            where = f", rip {int(regs.value.rip):#x}"
        return (
            f"vCPU {self.id} did not exit within {timeout:g} s{where}: the guest loops, waits for "
            "an interrupt that never comes, or the kernel loops inside KVM_RUN"
        )
