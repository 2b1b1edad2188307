# SPDX-License-Identifier: MIT
"""Time in a guest: the paravirtual clock, the TSC's frequency and its offset."""

from __future__ import annotations

from enum import IntFlag

from kvmharness.kvm import ioctl
from kvmharness.kvm.device import device_attr, get_device_attr_u64
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, get, put


class ClockFlag(IntFlag):
    """KVM_CLOCK_*: what of struct kvm_clock_data counts."""

    TSC_STABLE = 2
    REALTIME = 4
    HOST_TSC = 8


class ClockData(Struct, kind="kvm_clock_data"):
    """struct kvm_clock_data: `clock` and `realtime` in nanoseconds; `flags` are ClockFlag."""

    clock: int = 0
    flags: int = 0
    realtime: int = 0
    host_tsc: int = 0


class VmClockTry:
    """The calls for a VM's clocks, each giving a Result."""

    _vm: HasFileno

    def get_clock(self) -> Result[ClockData]:
        """KVM_GET_CLOCK (KVM_CAP_ADJUST_CLOCK): the guest's clock now."""
        return get(self._vm, "KVM_GET_CLOCK", ClockData)

    def set_clock(self, clock: ClockData) -> Result[int]:
        """KVM_SET_CLOCK: go on from `clock`; with REALTIME, plus what has passed since.

        EINVAL: flags beyond those that KVM_CAP_ADJUST_CLOCK has; TSC_STABLE and HOST_TSC, which
        get_clock sets, are ignored from 5.16 on.
        """
        return put(self._vm, "KVM_SET_CLOCK", clock, ClockData)

    def set_tsc_khz(self, khz: int) -> Result[int]:
        """KVM_SET_TSC_KHZ on the VM (KVM_CAP_VM_TSC_CONTROL): the default for its vCPUs."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_TSC_KHZ", khz)

    def get_tsc_khz(self) -> Result[int]:
        """KVM_GET_TSC_KHZ on the VM (KVM_CAP_VM_TSC_CONTROL): what its next vCPUs get."""
        return ioctl.call(self._vm.fileno(), "KVM_GET_TSC_KHZ")


class VmClockCalls:
    """The raising forms of VmClockTry."""

    get_clock = raising(VmClockTry.get_clock)
    set_clock = raising(VmClockTry.set_clock)
    set_tsc_khz = raising(VmClockTry.set_tsc_khz)
    get_tsc_khz = raising(VmClockTry.get_tsc_khz)


class VcpuClockTry:
    """The calls for a vCPU's clocks, each giving a Result."""

    _vcpu: HasFileno

    def kvmclock_ctrl(self) -> Result[int]:
        """KVM_KVMCLOCK_CTRL: tell the guest that it was paused. EINVAL: it has no kvmclock on."""
        return ioctl.call(self._vcpu.fileno(), "KVM_KVMCLOCK_CTRL")

    def get_tsc_khz(self) -> Result[int]:
        """KVM_GET_TSC_KHZ (KVM_CAP_GET_TSC_KHZ): the frequency of the guest's TSC."""
        return ioctl.call(self._vcpu.fileno(), "KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> Result[int]:
        """KVM_SET_TSC_KHZ: 0 is the host's. EINVAL: more than the host can scale to."""
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_TSC_KHZ", khz)

    def get_tsc_offset(self) -> Result[int]:
        """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET (5.16): added to the host's TSC, mod 2^64."""
        return get_device_attr_u64(self._vcpu, lib.KVM_VCPU_TSC_CTRL, lib.KVM_VCPU_TSC_OFFSET)

    def set_tsc_offset(self, offset: int) -> Result[int]:
        """KVM_SET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: `offset` is a u64."""
        value = ffi.new("__u64 *", u64("offset", offset))
        return device_attr(
            self._vcpu,
            "KVM_SET_DEVICE_ATTR",
            lib.KVM_VCPU_TSC_CTRL,
            lib.KVM_VCPU_TSC_OFFSET,
            int(ffi.cast("uintptr_t", value)),
        )


class VcpuClockCalls:
    """The raising forms of VcpuClockTry."""

    kvmclock_ctrl = raising(VcpuClockTry.kvmclock_ctrl)
    get_tsc_khz = raising(VcpuClockTry.get_tsc_khz)
    set_tsc_khz = raising(VcpuClockTry.set_tsc_khz)
    get_tsc_offset = raising(VcpuClockTry.get_tsc_offset)
    set_tsc_offset = raising(VcpuClockTry.set_tsc_offset)
