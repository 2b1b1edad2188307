# SPDX-License-Identifier: MIT
"""Machine checks: the banks a vCPU has, and an error put into one."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, put


class MachineCheck(Struct, kind="kvm_x86_mce"):
    """struct kvm_x86_mce: what `bank`'s MSRs and IA32_MCG_STATUS become."""

    status: int = 0
    addr: int = 0
    misc: int = 0
    mcg_status: int = 0
    bank: int = 0


class McheckTry:
    """The calls for machine checks, each giving a Result."""

    _vcpu: HasFileno

    def setup_mce(self, mcg_cap: int) -> Result[int]:
        """KVM_X86_SETUP_MCE: what the guest reads of IA32_MCG_CAP; the low byte counts banks.

        EINVAL: no banks, more than there are, or a bit that Kvm.get_mce_cap_supported lacks.
        """
        return ioctl.call(
            self._vcpu.fileno(), "KVM_X86_SETUP_MCE", ffi.new("__u64 *", u64("mcg_cap", mcg_cap))
        )

    def set_mce(self, error: MachineCheck) -> Result[int]:
        """KVM_X86_SET_MCE: have the guest take `error`. EINVAL: no such bank, or not valid."""
        return put(self._vcpu, "KVM_X86_SET_MCE", error, MachineCheck)


class McheckCalls:
    """The raising forms of McheckTry."""

    setup_mce = raising(McheckTry.setup_mce)
    set_mce = raising(McheckTry.set_mce)
