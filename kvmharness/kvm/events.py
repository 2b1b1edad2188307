# SPDX-License-Identifier: MIT
"""What a vCPU is about to take: exceptions, interrupts, NMIs, SMIs, and the triple fault."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, get, inside, put


class ExceptionEvent(Struct):
    """The exception of struct kvm_vcpu_events: `nr` is its vector."""

    injected: int = 0
    nr: int = 0
    has_error_code: int = 0
    pending: int = 0
    error_code: int = 0


class InterruptEvent(Struct):
    """The interrupt of struct kvm_vcpu_events; `shadow` is KVM_X86_SHADOW_INT_*."""

    injected: int = 0
    nr: int = 0
    soft: int = 0
    shadow: int = 0


class NmiEvent(Struct):
    """The NMI of struct kvm_vcpu_events."""

    injected: int = 0
    pending: int = 0
    masked: int = 0


class SmiEvent(Struct):
    """System management mode in struct kvm_vcpu_events."""

    smm: int = 0
    pending: int = 0
    smm_inside_nmi: int = 0
    latched_init: int = 0


class TripleFaultEvent(Struct):
    """The triple fault of struct kvm_vcpu_events (KVM_CAP_X86_TRIPLE_FAULT_EVENT)."""

    pending: int = 0


class VcpuEvents(Struct, kind="kvm_vcpu_events"):
    """struct kvm_vcpu_events; `flags` (KVM_VCPUEVENT_VALID_*) say which optional parts count."""

    exception: ExceptionEvent = inside(ExceptionEvent)
    interrupt: InterruptEvent = inside(InterruptEvent)
    nmi: NmiEvent = inside(NmiEvent)
    sipi_vector: int = 0
    flags: int = 0
    smi: SmiEvent = inside(SmiEvent)
    triple_fault: TripleFaultEvent = inside(TripleFaultEvent)
    exception_has_payload: int = 0
    exception_payload: int = 0


class EventsTry:
    """The calls for a vCPU's events, each giving a Result."""

    _vcpu: HasFileno

    def get_vcpu_events(self) -> Result[VcpuEvents]:
        """KVM_GET_VCPU_EVENTS: what is pending, injected and masked."""
        return get(self._vcpu, "KVM_GET_VCPU_EVENTS", VcpuEvents)

    def set_vcpu_events(self, events: VcpuEvents) -> Result[int]:
        """KVM_SET_VCPU_EVENTS. EINVAL: unknown flags, or an exception that can't be."""
        return put(self._vcpu, "KVM_SET_VCPU_EVENTS", events, VcpuEvents)

    def nmi(self) -> Result[int]:
        """KVM_NMI: queue a non-maskable interrupt."""
        return ioctl.call(self._vcpu.fileno(), "KVM_NMI")

    def smi(self) -> Result[int]:
        """KVM_SMI (KVM_CAP_X86_SMM): queue a system management interrupt. EINVAL without SMM."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SMI")


class EventsCalls:
    """The raising forms of EventsTry."""

    get_vcpu_events = raising(EventsTry.get_vcpu_events)
    set_vcpu_events = raising(EventsTry.set_vcpu_events)
    nmi = raising(EventsTry.nmi)
    smi = raising(EventsTry.smi)
