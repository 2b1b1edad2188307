# SPDX-License-Identifier: MIT
"""Device attributes: KVM_{SET,GET,HAS}_DEVICE_ATTR, the same on every kind of KVM fd."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.fenced import fenced_copy
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result


def device_attr(fd: HasFileno, name: str, group: int, attr: int, address: int) -> Result[int]:
    """Issue KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR or KVM_HAS_DEVICE_ATTR (`name`) on `fd`.

    `address` is the user address of the attribute's value. ENXIO: no such group or attribute.
    """
    arguments = make("struct kvm_device_attr *", group=group, attr=attr, addr=address)
    return ioctl.call(fd.fileno(), name, arguments)


def get_device_attr_u64(fd: HasFileno, group: int, attr: int) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of an attribute that is one u64. EFAULT: it is longer."""
    value = ffi.new("__u64 *")
    result = _through_fence(fd, "KVM_GET_DEVICE_ATTR", group, attr, value)
    return result.with_value(int(value[0]))


def _through_fence(fd: HasFileno, name: str, group: int, attr: int, value: Any) -> Result[int]:
    """Pass an attribute's value to or from the kernel, which alone knows how long it is.

    It goes through a buffer with a fence behind it: what is too short is EFAULT, and no overrun.
    """
    with fenced_copy(value) as address:
        return device_attr(fd, name, group, attr, address)


class DeviceTry:
    """The calls a device fd takes, each giving a Result."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def set_attr(self, group: int, attr: int, value: Any) -> Result[int]:
        """KVM_SET_DEVICE_ATTR: `value` is a cffi pointer to the attribute's value.

        EFAULT: it is shorter than the attribute.
        """
        return _through_fence(self._device, "KVM_SET_DEVICE_ATTR", group, attr, value)

    def get_attr(self, group: int, attr: int, value: Any) -> Result[int]:
        """KVM_GET_DEVICE_ATTR: the kernel fills what the cffi pointer `value` points to.

        EFAULT: it is shorter than the attribute.
        """
        return _through_fence(self._device, "KVM_GET_DEVICE_ATTR", group, attr, value)

    def has_attr(self, group: int, attr: int) -> Result[int]:
        """KVM_HAS_DEVICE_ATTR: 0 if the device has the attribute, ENXIO if not."""
        return device_attr(self._device, "KVM_HAS_DEVICE_ATTR", group, attr, 0)


class Device(OwnedFd):
    """An in-kernel device, made by ``Vm.create_device``."""

    @property
    def try_(self) -> DeviceTry:
        """The same calls, each giving a Result."""
        return DeviceTry(self)

    set_attr = raising(DeviceTry.set_attr)
    get_attr = raising(DeviceTry.get_attr)
    has_attr = raising(DeviceTry.has_attr)
