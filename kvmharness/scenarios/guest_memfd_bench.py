# SPDX-License-Identifier: MIT
"""Where scenarios about guest_memfd alone work: a default VM, without memory until it is given."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvmharness.errors import InaccessibleMemory
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.ioctl import system_call
from kvmharness.kvm.mapping import PAGE_SIZE, Mapping
from kvmharness.kvm.result import Result
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.slot import require_guest_memfd
from kvmharness.scenarios import locks
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.needs import Need
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.scenario import Scenario, register
from kvmharness.scenarios.step import Call

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm

#: Pages of the guest_memfds that scenarios make.
PAGES = 4
SIZE = PAGES * PAGE_SIZE
GPA = 1 << 30
#: A guest_memfd that the host fills in place.
IN_PLACE = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED


class DefaultBench(Bench):
    """A Bench whose VM is a default one."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._vm: Vm | None = None
        self._memfds: list[GuestMemfd] = []

    @property
    def vm(self) -> Vm:
        """The VM, made when it is first used."""
        if self._vm is None:
            self._vm = self.stack.enter_context(self.kvm.create_vm(VmType.DEFAULT))
        return self._vm

    def memfd(self, flags: int = 0, size: int = SIZE) -> GuestMemfd:
        """Make a guest_memfd; the scenario is skipped, with the reason, where there are none."""
        require_guest_memfd(self.vm, flags)
        made = self.stack.enter_context(self.vm.create_guest_memfd(size, flags))
        self._memfds.append(made)
        return made

    def take_locks(self) -> None:
        """Take each lock of the VM and its guest_memfds, if there are any."""
        if self._vm is not None:
            locks.take_each(self._vm, [], self._memfds)

    def mapping(self, guest_memfd: GuestMemfd) -> Mapping:
        """Map a guest_memfd, whole."""
        return self.stack.enter_context(guest_memfd.mmap())

    def bind(
        self,
        label: str,
        guest_memfd: GuestMemfd | int,
        *,
        slot: int = 0,
        gpa: int = GPA,
        size: int = SIZE,
        offset: int = 0,
        flags: int = lib.KVM_MEM_GUEST_MEMFD,
        vm: Vm | None = None,
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION2 with the guest_memfd, recorded as a step. Sizes in bytes."""
        region = (vm or self.vm).try_.set_user_memory_region2
        return self.step(label, region(slot, gpa, size, 0, flags, guest_memfd, offset))

    def touch(self, label: str, access: Callable[[], object]) -> None:
        """Record whether the host may touch memory: ``ok``, or the signal that it gets."""
        signal = ""
        try:
            access()
        except InaccessibleMemory as error:
            signal = error.signal_name
        number = errno.EFAULT if signal else 0
        self.outcome.steps.append(Call(label, number, signal=signal, ioctl="touch"))

    def call(self, label: str, name: str, function: Callable[[], Any]) -> Result[int]:
        """Make a system call by Python's own wrapper of it, and record it as a step."""
        try:
            function()
        except OSError as error:
            return self.step(label, system_call(name, -(error.errno or errno.EIO)))
        return self.step(label, system_call(name, 0))


def default_scenario(
    scenario_id: str, summary: str, *needs: Need
) -> Callable[[Callable[[DefaultBench], None]], Callable[[DefaultBench], None]]:
    """Declare a scenario on a default VM: a decorator for the function that does it."""

    def declare(action: Callable[[DefaultBench], None]) -> Callable[[DefaultBench], None]:
        register(Scenario(scenario_id, VmType.DEFAULT, summary, action, DefaultBench, needs))
        return action

    return declare
