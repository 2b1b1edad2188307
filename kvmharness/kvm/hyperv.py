# SPDX-License-Identifier: MIT
"""Hyper-V's interface to a guest: its CPUID leaves, and connections that signal an eventfd."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, get_cpuid
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result


class VcpuHypervTry:
    """A vCPU's Hyper-V leaves, returning form."""

    _vcpu: HasFileno

    def get_supported_hv_cpuid(self) -> Result[Cpuid]:
        """KVM_GET_SUPPORTED_HV_CPUID on the vCPU: the leaves from 0x40000000 on."""
        return get_cpuid(self._vcpu, "KVM_GET_SUPPORTED_HV_CPUID")


class VcpuHypervCalls:
    """The raising form of VcpuHypervTry."""

    get_supported_hv_cpuid = raising(VcpuHypervTry.get_supported_hv_cpuid)


class VmHypervTry:
    """A VM's Hyper-V connections, returning form."""

    _vm: HasFileno

    def hyperv_eventfd(
        self, connection: int, eventfd: HasFileno | int, *, deassign: bool = False
    ) -> Result[int]:
        """KVM_HYPERV_EVENTFD (KVM_CAP_HYPERV_EVENTFD): signal `eventfd` for HvSignalEvent.

        EINVAL: a connection id of more than 24 bits; EEXIST: it has one; ENOENT: it has none.
        """
        arguments = make(
            "struct kvm_hyperv_eventfd *",
            conn_id=connection,
            fd=eventfd if isinstance(eventfd, int) else eventfd.fileno(),
            flags=lib.KVM_HYPERV_EVENTFD_DEASSIGN if deassign else 0,
        )
        return ioctl.call(self._vm.fileno(), "KVM_HYPERV_EVENTFD", arguments)


class VmHypervCalls:
    """The raising form of VmHypervTry."""

    hyperv_eventfd = raising(VmHypervTry.hyperv_eventfd)
