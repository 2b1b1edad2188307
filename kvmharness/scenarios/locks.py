# SPDX-License-Identifier: MIT
"""Every lock of a VM taken once more, when a scenario has done to the VM what it does.

A call that was refused and kept a lock shows in the next one that wants it, which waits for ever.
On an emulated host a panic ends that, says where it waits, and fails the scenario it came up in.
Who waits for a vCPU can be killed, which is no hang to the kernel: that is noticed here. What the
calls return says nothing; that they return does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvmharness.errors import KernelFault
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.memory_encrypt import SevCommand, TdxCommand
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.standins import snp, tdx

#: A vCPU id and a launch command that there can't be: refused with kvm->lock held.
_NO_VCPU = 0x7FFF_FFFF
_NO_COMMAND = 0x7FFF
#: A slot and its guest address that no scenario has.
_SLOT, _GPA = 500, 1 << 38
#: Seconds for the ioctls of all vCPUs: more than a hang takes that the kernel itself ends.
_PATIENCE = 45.0


def take_each(vm: Vm, vcpus: Iterable[Vcpu], guest_memfds: Iterable[GuestMemfd]) -> None:
    """Take the locks of `vm`, its vCPUs and guest_memfds, one after another.

    kvm->lock; slots_lock, slots_arch_lock and the grace period of a slot's end; mmu_lock; each
    vCPU's mutex, and all at once; each file's invalidate lock, shared and exclusive, its folios'.
    """
    if vm.closed or vm.try_.create_vcpu(_NO_VCPU).errno_name == "EIO":
        return  # the kernel gave this VM up
    # What was to fail in the scenario is not to fail here.
    snp.clear_injection()
    tdx.clear_injection()
    kind = TdxCommand if vm.vm_type is VmType.TDX else SevCommand
    vm.try_.memory_encrypt_op(kind(id=_NO_COMMAND))
    _take_vcpus([vcpu for vcpu in vcpus if not vcpu.closed])
    vm.try_.set_user_memory_region(_SLOT, _GPA, PAGE_SIZE, 0)
    for attributes in (lib.KVM_MEMORY_ATTRIBUTE_PRIVATE, 0):
        vm.try_.set_memory_attributes(_GPA, PAGE_SIZE, attributes)
    vm.try_.set_user_memory_region(_SLOT, _GPA, 0, 0)
    for guest_memfd in guest_memfds:
        if not guest_memfd.closed:
            guest_memfd.try_.allocate(0, min(guest_memfd.size, 1 << 20))
            guest_memfd.try_.punch_hole(0, guest_memfd.size)


def _take_vcpus(vcpus: Sequence[Vcpu]) -> None:
    """Take the mutexes of `vcpus`. KernelFault, with where the kernel is, for one that is kept."""

    def take() -> None:
        for vcpu in vcpus:
            vcpu.try_.get_mp_state()
            vcpu.try_.memory_encrypt_op(TdxCommand(id=_NO_COMMAND))

    if not vcpus:
        return
    worker = threading.Thread(target=take, name="takes a vCPU's mutex", daemon=True)
    worker.start()
    worker.join(_PATIENCE)
    if worker.is_alive():
        raise KernelFault(f"an ioctl of a vCPU did not return in {_PATIENCE:g} s: {_where(worker)}")


def _where(thread: threading.Thread) -> str:
    """Return the kernel's functions that a thread is in, for root to see."""
    try:
        lines = Path(f"/proc/self/task/{thread.native_id}/stack").read_text().splitlines()
    except OSError as error:
        return f"where it is, only root may see ({error.strerror})"
    return " < ".join(line.split()[-1].partition("+")[0] for line in lines)
