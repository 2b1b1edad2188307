# SPDX-License-Identifier: MIT
"""Device attributes: KVM_{SET,GET,HAS}_DEVICE_ATTR, the same on every kind of KVM fd."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result


def device_attr(fd: HasFileno, name: str, group: int, attr: int, address: int) -> Result[int]:
    """Issue KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR or KVM_HAS_DEVICE_ATTR (`name`) on `fd`.

    `address` is the user address of the attribute's value. ENXIO: no such group or attribute.
    """
    arguments = ffi.new("struct kvm_device_attr *")
    arguments.group = group
    arguments.attr = attr
    arguments.addr = address
    return ioctl.call(fd.fileno(), name, arguments)


def get_device_attr_u64(fd: HasFileno, group: int, attr: int) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of an attribute that is one u64."""
    value = ffi.new("__u64 *")
    address = int(ffi.cast("uintptr_t", value))
    return device_attr(fd, "KVM_GET_DEVICE_ATTR", group, attr, address).with_value(int(value[0]))


class DeviceTry:
    """The calls a device fd takes, each giving a Result."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def set_attr(self, group: int, attr: int, value: Any) -> Result[int]:
        """KVM_SET_DEVICE_ATTR: `value` is a cffi pointer to the attribute's value."""
        return device_attr(self._device, "KVM_SET_DEVICE_ATTR", group, attr, _address(value))

    def get_attr(self, group: int, attr: int, value: Any) -> Result[int]:
        """KVM_GET_DEVICE_ATTR: the kernel fills what the cffi pointer `value` points to."""
        return device_attr(self._device, "KVM_GET_DEVICE_ATTR", group, attr, _address(value))

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


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))
