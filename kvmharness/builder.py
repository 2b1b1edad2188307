# SPDX-License-Identifier: MIT
"""VmBuilder: from a description of memory, vCPUs and payload to a Machine that runs.

Every step is a method of its own, and what it made is an attribute of the Machine: a test that
wants a step done otherwise leaves it out and does it with the Machine's ioctls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from kvmharness import payload as payloads
from kvmharness.cpu_mode import enter, page_tables, page_tables_size
from kvmharness.errors import HarnessError, MissingCapability, RunTimeout
from kvmharness.exits import Exit, InterruptedExit, IoExit
from kvmharness.fd import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    Mapping,
    OwnedFd,
    map_memory,
)
from kvmharness.ffi import lib
from kvmharness.guest_memfd import GuestMemfd
from kvmharness.payload import Mode, Payload, ReportReader
from kvmharness.sev import SevDevice, Snp, SnpTry
from kvmharness.system import Kvm, made_or_missing
from kvmharness.tdx import Tdx, TdxTry, TdxVcpu, start_td
from kvmharness.vcpu import Vcpu
from kvmharness.vm import Vm, VmTry
from kvmharness.vmtypes import VmType

Backing = Literal["guest_memfd", "anonymous", "memfd"]

#: Where the builder's own slot (page tables) goes: below the 4 GiB line's devices, above any
#: slot a small test uses.
PAGE_TABLE_GPA = 0xE000_0000

#: The VM types whose first command is KVM_SEV_INIT2.
SEV_TYPES = (VmType.SEV, VmType.SEV_ES, VmType.SNP)

#: How long closing a machine waits for its vCPUs to leave KVM_RUN.
_LEAVE_SECONDS = 15.0

_GIB = 1 << 30


@dataclass(frozen=True)
class Slot:
    """One memslot as built: `mapping` is the host's view, `guest_memfd` what backs it, if one does.

    On a confidential VM `mapping` is the slot's shared half, and the guest_memfd its private one.
    """

    number: int
    gpa: int
    size: int
    flags: int
    backing: Backing
    mapping: Mapping
    guest_memfd: GuestMemfd | None = None
    guest_memfd_offset: int = 0

    def holds(self, gpa: int, size: int) -> bool:
        """Whether `size` bytes from `gpa` lie in this slot."""
        return self.gpa <= gpa and gpa + size <= self.gpa + self.size


@dataclass
class PayloadRun:
    """What a payload did: its console text, the words it reported, how it ended.

    `status` is what it finished with, None when another exit ended the run; `exit` is the last
    exit; `exits` counts all.
    """

    reader: ReportReader = field(default_factory=ReportReader)
    exit: Exit | None = None
    exits: int = 0
    seconds: float = 0.0

    @property
    def status(self) -> int | None:
        """The payload's own status, 0 for success."""
        return self.reader.status

    @property
    def console(self) -> str:
        """What it wrote to the console port."""
        return self.reader.text

    @property
    def words(self) -> list[int]:
        """The 64-bit words it reported, in order."""
        return self.reader.words


class VcpuThread:
    """A vCPU running its payload on a thread of its own; join() gives the PayloadRun."""

    def __init__(self, vcpu: Vcpu, timeout: float) -> None:
        self.vcpu = vcpu
        self.run = PayloadRun()
        self._timeout = timeout
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._body, name=f"vcpu-{vcpu.id}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def join(self) -> PayloadRun:
        """Wait for the end; raises what the thread raised, RunTimeout among it."""
        # KVM_RUN has the deadline; the margin is for a machine that is busy with other things.
        self._thread.join(self._timeout + 10)
        if self._thread.is_alive():
            raise RunTimeout(
                f"the thread of vCPU {self.vcpu.id} is still inside KVM_RUN 10 s past its deadline"
            )
        if self._error is not None:
            raise self._error
        return self.run

    def stop(self) -> PayloadRun:
        """Kick the vCPU out of the guest and wait; a payload that never ends is ended so."""
        self.vcpu.kick()
        return self.join()

    def _body(self) -> None:
        try:
            run_payload(self.vcpu, self._timeout, self.run)
        except BaseException as error:  # noqa: BLE001 (handed to join)
            self._error = error


def run_payload(vcpu: Vcpu, timeout: float, run: PayloadRun | None = None) -> PayloadRun:
    """Run `vcpu` until its payload finishes or something other than the protocol's ports exits.

    Raises RunTimeout after `timeout` seconds in all, however many exits it takes.
    """
    run = PayloadRun() if run is None else run
    start = time.monotonic()
    while True:
        left = timeout - (time.monotonic() - start)
        try:
            run.exit = vcpu.run(left)
        except RunTimeout as error:
            if run.exit is None:
                raise
            raise RunTimeout(
                f"vCPU {vcpu.id} made {run.exits} exits in {timeout:g} s and did not finish; "
                f"after the last ({run.exit.name}): {error}"
            ) from None
        run.exits += 1
        run.seconds = time.monotonic() - start
        if (
            not isinstance(run.exit, IoExit)
            or not run.exit.is_out
            or not run.reader.feed(run.exit.port, run.exit.size, run.exit.data)
            or run.reader.finished
        ):
            return run


class MachineTry(VmTry):
    """The calls of a Machine, each giving a Result; ``snp`` has the launch commands'."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._machine = machine

    @property
    def snp(self) -> SnpTry:
        """The SEV, SEV-ES or SNP launch commands, returning form."""
        return self._machine.snp.try_

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
        #: gpa (bytes) of the PML4 that the payloads of long mode use, None if there is none.
        self.page_table: int | None = None
        self._owned = ExitStack()
        self._sev: SevDevice | None = None

    @property
    def try_(self) -> MachineTry:
        """The same calls, each giving a Result."""
        return MachineTry(self)

    @property
    def snp(self) -> Snp:
        """The SEV, SEV-ES or SNP launch commands. MissingCapability without /dev/sev."""
        if self._sev is None:
            self._sev = SevDevice.open()
            self.own(self._sev)
        return Snp(self, self._sev.fileno())

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

    def slot_at(self, gpa: int, size: int = 1) -> Slot:
        """Return the slot that holds `size` bytes from `gpa`; ValueError if none does."""
        for slot in self.slots:
            if slot.holds(gpa, size):
                return slot
        raise ValueError(f"no memslot holds {gpa:#x}..{gpa + size:#x}")

    def read(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes of guest memory from `gpa` as the host sees them, guarded."""
        slot = self.slot_at(gpa, size)
        return slot.mapping.read(gpa - slot.gpa, size)

    def write(self, gpa: int, data: bytes) -> None:
        """Write `data` to guest memory at `gpa` through the host's mapping, guarded.

        With an in-place guest_memfd this is how it is filled: no source page, no copy by KVM.
        """
        slot = self.slot_at(gpa, len(data))
        slot.mapping.write(gpa - slot.gpa, data)

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
        plan = _plan(payload, mode, vcpu, load_gpa, arguments)
        if self.vcpus[vcpu].kvm_run.exit_reason != lib.KVM_EXIT_UNKNOWN:
            self.vcpus[vcpu].settle()
        self._enter(plan)

    def _enter(self, plan: _PayloadPlan) -> None:
        if plan.mode is not Mode.REAL and self.page_table is None:
            raise HarnessError(
                f"payload {plan.payload.name} needs page tables: build with payload()"
            )
        self.write(plan.load_gpa, plan.payload.image)
        entry = plan.payload.entry - plan.payload.load_gpa + plan.load_gpa
        for vcpu in self.vcpus if plan.vcpu is None else [self.vcpus[plan.vcpu]]:
            enter(vcpu, plan.mode, entry, page_table=self.page_table or 0, **plan.registers)

    def run(self, timeout: float = 5.0, vcpu: int = 0) -> PayloadRun:
        """Run the payload of one vCPU on this thread, for at most `timeout` seconds."""
        return run_payload(self.vcpus[vcpu], timeout)

    def start(self, vcpu: int = 0, timeout: float = 5.0) -> VcpuThread:
        """Run the payload of one vCPU on a thread of its own, for at most `timeout` seconds."""
        thread = VcpuThread(self.vcpus[vcpu], timeout)
        self.threads = [started for started in self.threads if started.running]
        self.threads.append(thread)
        return thread

    def run_all(self, timeout: float = 5.0) -> list[PayloadRun]:
        """Run all vCPUs at once, each on its thread, and return what each did, by index."""
        threads = [self.start(vcpu.id, timeout) for vcpu in self.vcpus]
        return [thread.join() for thread in threads]

    def close(self) -> None:
        """Stop the vCPUs, then close them, the memory and the VM.

        HarnessError, with nothing closed, if a vCPU's thread can't be made to leave KVM_RUN.
        """
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in getattr(self, "threads", ()):
            # The thread's own error belongs to join(); here it only has to leave the guest.
            while thread.running:
                thread.vcpu.kick()
                thread._thread.join(0.05)
                if time.monotonic() > deadline:
                    raise HarnessError(
                        f"vCPU {thread.vcpu.id} did not leave KVM_RUN within "
                        f"{_LEAVE_SECONDS:g} s: the machine is not closed"
                    )
        if hasattr(self, "_owned"):
            self._owned.close()
        super().close()


@dataclass(frozen=True)
class _MemoryPlan:
    gpa: int
    size: int
    backing: Backing
    flags: int
    guest_memfd_flags: int | None


@dataclass(frozen=True)
class _PayloadPlan:
    payload: Payload
    mode: Mode
    vcpu: int | None
    load_gpa: int
    registers: dict[str, int]


def _plan(
    payload: str | Payload,
    mode: Mode | str | None,
    vcpu: int | None,
    load_gpa: int | None,
    arguments: dict[str, int],
) -> _PayloadPlan:
    image = payloads.load(payload) if isinstance(payload, str) else payload
    chosen = image.modes[-1] if mode is None else Mode(mode)
    if chosen not in image.modes:
        takes = ", ".join(image.modes)
        raise HarnessError(f"payload {image.name} does not run in {chosen}: it takes {takes}")
    where = image.load_gpa if load_gpa is None else load_gpa
    return _PayloadPlan(image, chosen, vcpu, where, image.registers(**arguments))


class VmBuilder:
    """Describes a VM; build() makes it. Methods return the builder, so that calls chain.

    `vm_type` is a name or a VmType. On a default VM a guest_memfd slot is made with MMAP and
    INIT_SHARED and mapped: the host fills it in place. On a confidential VM the slot has a private
    guest_memfd beside an anonymous shared half, and vCPUs start as the launch leaves them.
    """

    def __init__(self, kvm: Kvm, vm_type: VmType | str = VmType.DEFAULT) -> None:
        self._kvm = kvm
        self._vm_type = VmType.parse(vm_type)
        self._memory: list[_MemoryPlan] = []
        self._vcpus = 0
        self._payloads: list[_PayloadPlan] = []
        self._before_vcpus: list[Callable[[Machine], object]] = []
        self._initialized = True

    def memory(
        self,
        gpa: int = 0,
        size: int = 2 << 20,
        backing: Backing = "guest_memfd",
        *,
        flags: int = 0,
        guest_memfd_flags: int | None = None,
    ) -> Self:
        """Add a memslot of `size` bytes at `gpa` (bytes), in the order of the slot numbers.

        `flags` are KVM_MEM_* (KVM_MEM_GUEST_MEMFD is added for a guest_memfd); `guest_memfd_flags`
        override what the VM type gives.
        """
        self._memory.append(_MemoryPlan(gpa, size, backing, flags, guest_memfd_flags))
        return self

    def guest_memfd(self, gpa: int = 0, size: int = 2 << 20, flags: int | None = None) -> Self:
        """Add a memslot backed by a guest_memfd; `flags` are GUEST_MEMFD_FLAG_*."""
        return self.memory(gpa, size, "guest_memfd", guest_memfd_flags=flags)

    def vcpus(self, count: int) -> Self:
        """Have `count` vCPUs, with ids from 0."""
        self._vcpus = count
        return self

    def payload(
        self,
        name: str | Payload,
        mode: Mode | str | None = None,
        *,
        vcpu: int | None = None,
        load_gpa: int | None = None,
        **arguments: int,
    ) -> Self:
        """Load a payload of vm_images and enter it with `arguments` (see its manifest entry).

        `mode` defaults to the payload's last: CPL3 in long mode, which every kind of host runs
        natively. `vcpu` is the one that runs it, by default all; at least that many are made.
        `load_gpa` (bytes) overrides the manifest's, for two payloads in one VM.
        """
        self._payloads.append(_plan(name, mode, vcpu, load_gpa, arguments))
        self._vcpus = max(self._vcpus, (vcpu or 0) + 1)
        return self

    def uninitialized(self) -> Self:
        """Leave out the VM type's first step, for a test that makes it itself.

        That is KVM_SEV_INIT2, or for a TD the split irqchip and KVM_TDX_INIT_VM.
        """
        self._initialized = False
        return self

    def before_vcpus(self, step: Callable[[Machine], object]) -> Self:
        """Call `step` with the Machine after its memory is made and before its vCPUs are."""
        self._before_vcpus.append(step)
        return self

    def build(self) -> Machine:
        """Make the VM. MissingCapability, with the reason, where the host can't; KvmError else."""
        if self._vm_type not in self._kvm.vm_types():
            raise MissingCapability(
                f"VM type {self._vm_type.label}", self._kvm.why_no_vm_type(self._vm_type)
            )
        for wanted in self._payloads:
            if wanted.vcpu is not None and wanted.vcpu >= self._vcpus:
                raise HarnessError(
                    f"payload {wanted.payload.name} is for vCPU {wanted.vcpu}, "
                    f"of {self._vcpus} from 0"
                )
        machine = made_or_missing(self._kvm.try_.create_vm(self._vm_type, Machine), self._vm_type)
        try:
            self._initialize(machine)
            for number, plan in enumerate(self._memory):
                machine.slots.append(self._add_slot(machine, number, plan))
            for step in self._before_vcpus:
                step(machine)
            for index in range(self._vcpus):
                self._add_vcpu(machine, index)
            if self._payloads:
                self._load_payloads(machine)
        except BaseException:
            machine.close()
            raise
        return machine

    # -------------------------------------------------------------- steps

    def _initialize(self, machine: Machine) -> None:
        """Do what a VM type needs before anything else; the launch itself is the caller's."""
        if self._initialized and self._vm_type in SEV_TYPES:
            machine.snp.init2()
        if self._initialized and self._vm_type is VmType.TDX:
            start_td(machine, self._kvm)

    def _add_slot(self, machine: Machine, number: int, plan: _MemoryPlan) -> Slot:
        if plan.backing == "guest_memfd":
            return self._add_guest_memfd_slot(machine, number, plan)
        mapping = _shared_memory(plan.size, plan.backing)
        machine.own(mapping)
        machine.set_user_memory_region(number, plan.gpa, plan.size, mapping.address, plan.flags)
        return Slot(number, plan.gpa, plan.size, plan.flags, plan.backing, mapping)

    def _add_guest_memfd_slot(self, machine: Machine, number: int, plan: _MemoryPlan) -> Slot:
        flags = plan.guest_memfd_flags
        in_place = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
        if flags is None:
            flags = in_place if self._vm_type is VmType.DEFAULT else 0
        require_guest_memfd(machine, flags)
        guest_memfd = machine.create_guest_memfd(plan.size, flags)
        machine.own(guest_memfd)
        if flags & in_place == in_place:
            mapping = guest_memfd.mmap()
        else:
            mapping = _shared_memory(plan.size, "anonymous")
        machine.own(mapping)
        slot_flags = plan.flags | lib.KVM_MEM_GUEST_MEMFD
        machine.set_user_memory_region2(
            number, plan.gpa, plan.size, mapping.address, slot_flags, guest_memfd
        )
        return Slot(number, plan.gpa, plan.size, slot_flags, "guest_memfd", mapping, guest_memfd)

    @cached_property
    def _supported_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_CPUID, asked once for all vCPUs."""
        return self._kvm.get_supported_cpuid()

    def _add_vcpu(self, machine: Machine, index: int) -> None:
        vcpu = machine.create_vcpu(index)
        machine.own(vcpu)
        machine.vcpus.append(vcpu)
        if self._vm_type in (VmType.DEFAULT, VmType.SW_PROTECTED):
            vcpu.set_cpuid2(self._supported_cpuid)
        if self._vm_type is VmType.TDX and self._initialized:
            TdxVcpu(vcpu).set_cpuid_of_td()

    def _load_payloads(self, machine: Machine) -> None:
        if self._vm_type not in (VmType.DEFAULT, VmType.SW_PROTECTED):
            raise HarnessError(
                f"payload() loads into memory the host can write; a {self._vm_type.label} VM's has "
                "to be populated by its launch commands"
            )
        if any(plan.mode is not Mode.REAL for plan in self._payloads):
            machine.page_table = self._add_page_tables(machine)
        for plan in self._payloads:
            machine._enter(plan)

    def _add_page_tables(self, machine: Machine) -> int:
        top = max([slot.gpa + slot.size for slot in machine.slots], default=0)
        gib = max(4, -(-top // _GIB))
        size = page_tables_size(gib)
        base = PAGE_TABLE_GPA
        if any(slot.gpa < base + size and base < slot.gpa + slot.size for slot in machine.slots):
            base = -(-top // PAGE_SIZE) * PAGE_SIZE
        mapping = _shared_memory(size, "anonymous")
        machine.own(mapping)
        mapping.write(0, page_tables(base, gib))
        number = len(machine.slots)
        machine.set_user_memory_region(number, base, size, mapping.address)
        machine.slots.append(Slot(number, base, size, 0, "anonymous", mapping))
        return base


def require_guest_memfd(vm: Vm, flags: int) -> None:
    """Raise MissingCapability, with the reason, if `vm` can't have a guest_memfd with `flags`."""
    if not vm.check_extension(lib.KVM_CAP_GUEST_MEMFD):
        raise MissingCapability(
            "guest_memfd",
            "KVM_CAP_GUEST_MEMFD is 0 for this VM: default VMs need Linux 6.18, confidential "
            "ones 6.8 with CONFIG_KVM_GUEST_MEMFD (before 6.18: CONFIG_KVM_PRIVATE_MEM)",
        )
    known = vm.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)
    if missing := flags & ~known:
        names = [
            name
            for name in ("GUEST_MEMFD_FLAG_MMAP", "GUEST_MEMFD_FLAG_INIT_SHARED")
            if missing & getattr(lib, name)
        ]
        raise MissingCapability(
            "guest_memfd " + " and ".join(names or [hex(missing)]),
            f"KVM_CAP_GUEST_MEMFD_FLAGS is {known:#x} for this VM (mappable guest_memfd came with "
            "Linux 6.18, for VM types whose memory starts shared)",
        )


def _shared_memory(size: int, backing: Backing) -> Mapping:
    if backing == "memfd":
        with OwnedFd(os.memfd_create("kvmharness-slot", os.MFD_CLOEXEC)) as fd:
            os.truncate(fd.fileno(), size)
            return map_memory(size, flags=MAP_SHARED, fd=fd.fileno())
    return map_memory(size, flags=MAP_PRIVATE | MAP_ANONYMOUS)


def stopped(run: PayloadRun) -> bool:
    """Whether a run ended because its vCPU was kicked."""
    return isinstance(run.exit, InterruptedExit)
