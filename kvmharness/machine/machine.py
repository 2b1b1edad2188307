# SPDX-License-Identifier: MIT
"""Machine: a VM with its memory and vCPUs, which reads, writes, runs and closes them as one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvmharness.errors import (
    HarnessError,
    PrivateMemory,
    RunTimeout,
)
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import (
    Mapping,
)
from kvmharness.kvm.no_guest import require_runnable
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm, VmTry
from kvmharness.launch.sev import Snp, SnpTry
from kvmharness.launch.tdx import Tdx, TdxTry, TdxVcpu
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.entry import CODE_GPA, EntryPlan
from kvmharness.machine.payload import Mode, Payload
from kvmharness.machine.pieces import Piece, pieces
from kvmharness.machine.private_ranges import PrivateRanges
from kvmharness.machine.running import PayloadRun, VcpuThread, run_payload
from kvmharness.machine.slot import Slot

if TYPE_CHECKING:  # loaded when first asked for: most machines have no use for them
    from kvmharness.launch.psp import SevDevice
    from kvmharness.launch.sev_es import Sev, SevTry
    from kvmharness.machine.snapshot import Snapshot

#: Types whose guests take an encrypting processor to run.
#: How long closing a machine waits for its vCPUs to leave KVM_RUN.
_LEAVE_SECONDS = 15.0


class MachineTry(VmTry):
    """The calls of a Machine, each giving a Result; ``snp`` has the launch commands'."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._machine = machine

    def set_memory_attributes(
        self, gpa: int, size: int, attributes: int, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES (6.8), as ``VmTry.set_memory_attributes``.

        The Machine remembers what has become private: its read() and write() refuse it.
        """
        result = super().set_memory_attributes(gpa, size, attributes, flags)
        if result.ok:
            private = bool(attributes & lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)
            self._machine.private.set(gpa, size, private=private)
        return result

    def set_memory_attributes_many(
        self, ranges: Iterable[tuple[int, int, int]], flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES (6.8), as ``VmTry.set_memory_attributes_many``.

        The Machine remembers what has become private, as of set_memory_attributes().
        """
        given = list(ranges)
        done = len(given)  # if a signal handler raises, all of them may be
        try:
            result = super().set_memory_attributes_many(given, flags)
            done = result.written_back[0] if result.written_back else 0
        finally:
            for gpa, size, attributes in given[:done]:
                private = bool(attributes & lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)
                self._machine.private.set(gpa, size, private=private)
        return result

    @property
    def snp(self) -> SnpTry:
        """The SNP launch commands, returning form."""
        return self._machine.snp.try_

    @property
    def sev(self) -> SevTry:
        """The SEV or SEV-ES launch commands, returning form."""
        return self._machine.sev.try_

    @property
    def tdx(self) -> TdxTry:
        """The launch commands of a TD's VM fd, returning form."""
        return self._machine.tdx.try_


class Machine(Vm):
    """A VM with its memory and vCPUs. Closing it closes all of them, running vCPUs first kicked."""

    def __init__(self, fd: int, vcpu_mmap_size: int, vm_type: int) -> None:
        super().__init__(fd, vcpu_mmap_size, vm_type)
        self.slots: list[Slot] = []
        self.vcpus: list[Vcpu] = []
        self.threads: list[VcpuThread] = []
        #: What was made private through this object.
        self.private = PrivateRanges()
        #: gpa (bytes) of the PML4 that long mode uses, None if there is none.
        self.page_table: int | None = None
        #: gpa (bytes) of the descriptor_tables() of protected and long mode, None likewise.
        self.gdt: int | None = None
        self._owned = ExitStack()
        self._sev: SevDevice | None = None

    @property
    def try_(self) -> MachineTry:
        """The same calls, each giving a Result."""
        return MachineTry(self)

    @property
    def snp(self) -> Snp:
        """The SNP launch commands. MissingCapability without /dev/sev."""
        return Snp(self, self._sev_device().fileno())

    @property
    def sev(self) -> Sev:
        """The SEV or SEV-ES launch commands. MissingCapability without /dev/sev."""
        from kvmharness.launch.sev_es import Sev

        return Sev(self, self._sev_device().fileno())

    def _sev_device(self) -> SevDevice:
        from kvmharness.launch.psp import SevDevice

        if self._sev is None:
            self._sev = SevDevice.open()
            self.own(self._sev)
        return self._sev

    @property
    def tdx(self) -> Tdx:
        """The launch commands of a TD's VM fd."""
        return Tdx(self)

    def tdx_vcpu(self, index: int = 0) -> TdxVcpu:
        """The launch commands of a TD's vCPU fd: KVM_TDX_INIT_VCPU, INIT_MEM_REGION."""
        return TdxVcpu(self.vcpus[index])

    def own(self, *things: OwnedFd | Mapping) -> None:
        """Have `things` closed with the machine, the last first."""
        for thing in things:
            self._owned.callback(thing.close)

    set_memory_attributes = raising(MachineTry.set_memory_attributes)
    set_memory_attributes_many = raising(MachineTry.set_memory_attributes_many)

    def slot_at(self, gpa: int, size: int = 1) -> Slot:
        """Return the slot that holds `size` bytes from `gpa`; ValueError if none does."""
        for slot in self.slots:
            if slot.holds(gpa, size):
                return slot
        raise ValueError(f"no memslot holds {gpa:#x}..{gpa + size:#x}")

    def read(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes of guest memory from `gpa`, of as many slots as they lie in.

        PrivateMemory where a page was made private by set_memory_attributes: the guest sees other
        bytes there than the host. InaccessibleMemory where the host can't touch a page, ValueError
        where no slot is.
        """
        return b"".join([piece.read() for piece in self._pieces("read", gpa, size)])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` to guest memory at `gpa` through the host's mappings, guarded.

        With an in-place guest_memfd this is how it is filled: no source page, no copy by KVM.
        Errors as for read(); nothing is written before PrivateMemory and ValueError.
        """
        whole = memoryview(data)
        if whole.format != "B" or whole.ndim != 1:
            whole = whole.cast("B")
        for piece in self._pieces("write", gpa, whole.nbytes):
            piece.write(whole)

    def _pieces(self, action: str, gpa: int, size: int) -> list[Piece]:
        found = pieces(self.slots, gpa, size)
        private = self.private.first(gpa, size)
        if private is not None:
            slot = self.slot_at(private)
            raise PrivateMemory(action, slot.mapping.address + private - slot.gpa, private)
        return found

    def enter(
        self,
        payload: str | Payload,
        mode: Mode | str | None = None,
        *,
        vcpu: int = 0,
        load_gpa: int | None = None,
        **arguments: int,
    ) -> None:
        """Load a payload and set up one vCPU to begin it, whatever the vCPU did before.

        As ``VmBuilder.payload``, on a machine that is there already; its page tables are those
        of the builder, so a payload of long mode needs one to have been built in.
        """
        self._enter_again(EntryPlan.of_payload(payload, mode, vcpu, load_gpa, arguments), vcpu)

    def enter_code(
        self,
        image: bytes,
        mode: Mode | str = Mode.LONG_CPL0,
        *,
        vcpu: int = 0,
        gpa: int = CODE_GPA,
        entry: int | None = None,
        **registers: int,
    ) -> None:
        """Load own code and set up one vCPU to begin it, whatever the vCPU did before.

        As ``VmBuilder.code``, on a machine that is there already; for protected and long mode one
        that was built with tables.
        """
        self._enter_again(EntryPlan.of_code(image, mode, vcpu, gpa, entry, registers), vcpu)

    def _enter_again(self, plan: EntryPlan, vcpu: int) -> None:
        if self.vcpus[vcpu].kvm_run.exit_reason != lib.KVM_EXIT_UNKNOWN:
            self.vcpus[vcpu].settle()
        self._enter(plan)

    def _enter(self, plan: EntryPlan) -> None:
        if plan.mode is not Mode.REAL and (self.page_table is None or self.gdt is None):
            raise HarnessError(
                f"{plan.name} needs page tables for {plan.mode}: build with payload() or code() "
                "of that mode"
            )
        self.write(plan.load_gpa, plan.image)
        for vcpu in self.vcpus if plan.vcpu is None else [self.vcpus[plan.vcpu]]:
            enter(
                vcpu,
                plan.mode,
                plan.entry,
                page_table=self.page_table or 0,
                gdt=self.gdt or 0,
                **plan.registers,
            )
            # With an in-kernel local APIC all but the first would wait for INIT, and one that
            # halted for an interrupt.
            vcpu.set_mp_state(lib.KVM_MP_STATE_RUNNABLE)

    def run(self, timeout: float | None = 5.0, vcpu: int = 0) -> PayloadRun:
        """Run the payload of one vCPU on this thread, for at most `timeout` seconds.

        With None there is no deadline. MissingCapability for a confidential VM on an emulated host:
        no guest of it runs there.
        """
        require_runnable(self.vm_type)
        return run_payload(self.vcpus[vcpu], timeout)

    def start(self, vcpu: int = 0, timeout: float | None = 5.0) -> VcpuThread:
        """Run the payload of one vCPU on a thread of its own, for at most `timeout` seconds.

        MissingCapability as run().
        """
        require_runnable(self.vm_type)
        thread = VcpuThread(self.vcpus[vcpu], timeout)
        self.threads = [started for started in self.threads if started.running]
        self.threads.append(thread)
        return thread

    def run_all(self, timeout: float | None = 5.0) -> list[PayloadRun]:
        """Run all vCPUs at once, each on its thread, and return what each did, by index."""
        threads = [self.start(vcpu.id, timeout) for vcpu in self.vcpus]
        return [thread.join() for thread in threads]

    def snapshot(self) -> Snapshot:
        """Take everything the VM, its vCPUs and its memory hold; no vCPU may be running.

        What a vCPU has not finished of its last exit it finishes first. MissingCapability for a
        confidential VM: what it holds is its guest's secret.
        """
        from kvmharness.machine.snapshot import take

        return take(self, self.vcpus, self.slots)

    def restore(self, snapshot: Snapshot) -> None:
        """Make this machine hold what another one held; its guest then goes on where that was.

        HarnessError if it was not built alike: the same memslots, vCPUs and in-kernel devices.
        """
        from kvmharness.machine.snapshot import put_back

        put_back(snapshot, self, self.vcpus, self.slots)

    def close(self) -> None:
        """Stop the vCPUs, then close them, the memory and the VM.

        RunTimeout, with nothing closed, if a vCPU's thread can't be made to leave KVM_RUN.
        """
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in getattr(self, "threads", ()):
            # The thread's own error belongs to join(); here it only has to leave the guest.
            if not thread.leave(deadline):
                raise RunTimeout(
                    f"vCPU {thread.vcpu.id} did not leave KVM_RUN within "
                    f"{_LEAVE_SECONDS:g} s: the machine is not closed"
                )
        if hasattr(self, "_owned"):
            # No vCPU runs, and the VM goes with its memory: the slots need it no more.
            self.memslots.let_go()
            self._owned.close()
        super().close()
