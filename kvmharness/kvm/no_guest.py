# SPDX-License-Identifier: MIT
"""A confidential VM's vCPU on an emulated host, where no such guest runs: it says so at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from kvmharness import labels
from kvmharness.errors import MissingCapability
from kvmharness.kvm.exits import AnyExit
from kvmharness.kvm.memslots import Memslots
from kvmharness.kvm.until import Stretch
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import CONFIDENTIAL, VmType


class NoGuestVcpu(Vcpu):
    """A vCPU whose guest the processor can't enter; it would loop until the deadline."""

    def __init__(
        self, fd: int, vcpu_id: int, mmap_size: int, memslots: Memslots | None, *, vm_type: int
    ) -> None:
        super().__init__(fd, vcpu_id, mmap_size, memslots)
        self._vm_type = vm_type

    def run(self, timeout: float | None = None) -> AnyExit:
        """Raise MissingCapability. ``ioctl.run`` issues KVM_RUN all the same."""
        require_runnable(self._vm_type)
        return super().run(timeout)

    def run_until(
        self,
        timeout: float | None = None,
        *,
        output: Iterable[int] = (),
        pass_over: Iterable[int] = (),
        most: int | None = None,
    ) -> Stretch:
        """Raise MissingCapability, as run()."""
        require_runnable(self._vm_type)
        return super().run_until(timeout, output=output, pass_over=pass_over, most=most)


def vcpu_of(vm_type: int) -> Callable[[int, int, int, Memslots | None], Vcpu]:
    """Return what makes a vCPU of a VM of `vm_type` here."""
    if _runs(vm_type):
        return Vcpu
    return partial(NoGuestVcpu, vm_type=vm_type)


def require_runnable(vm_type: int) -> None:
    """Raise MissingCapability for a VM whose guests do not run here."""
    if not _runs(vm_type):
        label = VmType(vm_type).label
        raise MissingCapability(
            f"running a {label} guest",
            f"this is an {labels.current().kind} host: it populates, measures and finishes a "
            "launch by the kernel's own code, but no confidential guest can run on it; that "
            "takes the hardware",
        )


def _runs(vm_type: int) -> bool:
    return vm_type not in CONFIDENTIAL or not labels.current().emulated
