# SPDX-License-Identifier: MIT
"""A vCPU's local APIC: its registers, and how reads and writes of its TPR are handled."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, get, put

_REGISTER = 4


class Lapic(Struct, kind="kvm_lapic_state"):
    """struct kvm_lapic_state: the APIC's page of registers, 1024 bytes.

    ``read`` and ``write`` take a register's offset (Intel SDM 3A, table 12-1): 0x20 is the id,
    0x80 the TPR, 0x320 the timer's vector.
    """

    regs: bytes = b""

    def read(self, offset: int) -> int:
        """Return the 32 bits at `offset` (bytes)."""
        self._check(offset)
        return int.from_bytes(self.regs[offset : offset + _REGISTER], "little")

    def write(self, offset: int, value: int) -> None:
        """Set the 32 bits at `offset` (bytes)."""
        self._check(offset)
        data = value.to_bytes(_REGISTER, "little")
        ffi.memmove(ffi.addressof(self.pointer.regs, offset), data, _REGISTER)

    def _check(self, offset: int) -> None:
        if not 0 <= offset <= len(self.pointer.regs) - _REGISTER:
            raise ValueError(f"offset: {offset:#x} lies outside the APIC's registers")


class TprAccess(Struct, kind="kvm_tpr_access_ctl"):
    """struct kvm_tpr_access_ctl."""

    enabled: int = 0
    flags: int = 0


class LapicTry:
    """The calls for a local APIC, each giving a Result."""

    _vcpu: HasFileno

    def get_lapic(self) -> Result[Lapic]:
        """KVM_GET_LAPIC. EINVAL without an in-kernel local APIC."""
        return get(self._vcpu, "KVM_GET_LAPIC", Lapic)

    def set_lapic(self, lapic: Lapic) -> Result[int]:
        """KVM_SET_LAPIC. EINVAL without an in-kernel local APIC."""
        return put(self._vcpu, "KVM_SET_LAPIC", lapic, Lapic)

    def tpr_access_reporting(self, enabled: bool = True) -> Result[TprAccess]:
        """KVM_TPR_ACCESS_REPORTING (KVM_CAP_VAPIC): have the guest's TPR accesses exit."""
        control = TprAccess(enabled=int(enabled))
        result = ioctl.call(self._vcpu.fileno(), "KVM_TPR_ACCESS_REPORTING", control.pointer)
        return result.with_value(control)

    def set_vapic_addr(self, gpa: int) -> Result[int]:
        """KVM_SET_VAPIC_ADDR: where the guest's copy of the TPR is, for such a patched guest."""
        address = make("struct kvm_vapic_addr *", vapic_addr=gpa)
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_VAPIC_ADDR", address)


class LapicCalls:
    """The raising forms of LapicTry."""

    get_lapic = raising(LapicTry.get_lapic)
    set_lapic = raising(LapicTry.set_lapic)
    tpr_access_reporting = raising(LapicTry.tpr_access_reporting)
    set_vapic_addr = raising(LapicTry.set_vapic_addr)
