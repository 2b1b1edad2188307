# SPDX-License-Identifier: MIT
"""What the host's processor lets a guest have: feature MSRs, machine checks, Hyper-V's leaves."""

from __future__ import annotations

from collections.abc import Iterable

from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, get_cpuid
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.msrs import read_msrs
from kvmharness.kvm.result import Result


class FeaturesTry:
    """The calls of /dev/kvm for features beyond CPUID, each giving a Result."""

    _kvm: HasFileno

    def get_msrs(self, indices: Iterable[int]) -> Result[dict[int, int]]:
        """KVM_GET_MSRS on /dev/kvm (KVM_CAP_GET_MSR_FEATURES): what a guest may find in `indices`.

        They are of KVM_GET_MSR_FEATURE_INDEX_LIST. ``ret`` is how many were read: the kernel stops
        at the first that it can't.
        """
        return read_msrs(self._kvm, indices)

    def get_supported_hv_cpuid(self) -> Result[Cpuid]:
        """KVM_GET_SUPPORTED_HV_CPUID (KVM_CAP_SYS_HYPERV_CPUID): the leaves from 0x40000000 on."""
        return get_cpuid(self._kvm, "KVM_GET_SUPPORTED_HV_CPUID")

    def get_mce_cap_supported(self) -> Result[int]:
        """KVM_X86_GET_MCE_CAP_SUPPORTED: the bits that Vcpu.setup_mce takes."""
        value = ffi.new("__u64 *")
        result = ioctl.call(self._kvm.fileno(), "KVM_X86_GET_MCE_CAP_SUPPORTED", value)
        return result.with_value(int(value[0]))


class FeaturesCalls:
    """The raising forms of FeaturesTry."""

    get_msrs = raising(FeaturesTry.get_msrs)
    get_supported_hv_cpuid = raising(FeaturesTry.get_supported_hv_cpuid)
    get_mce_cap_supported = raising(FeaturesTry.get_mce_cap_supported)
