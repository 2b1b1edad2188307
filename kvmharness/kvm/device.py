# SPDX-License-Identifier: MIT
"""Device attributes: KVM_{SET,GET,HAS}_DEVICE_ATTR, the same on every kind of KVM fd."""

from __future__ import annotations

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.fields import Buffer, any_bytes, make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct


def device_attr(fd: HasFileno, name: str, group: int, attr: int, address: int) -> Result[int]:
    """Issue KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR or KVM_HAS_DEVICE_ATTR (`name`) on `fd`.

    `address` is the user address of the attribute's value. ENXIO: no such group or attribute.
    """
    arguments = make("struct kvm_device_attr *", group=group, attr=attr, addr=address)
    return ioctl.call(fd.fileno(), name, arguments)


def get_device_attr_u64(fd: HasFileno, group: int, attr: int) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of an attribute that is one u64. EFAULT: it is longer."""
    result = _get_attr(fd, group, attr, 8)
    return result.with_value(int.from_bytes(result.value or b"", "little"))


# The kernel alone knows how long a value is. It goes through a buffer with a fence behind it: what
# is too short is EFAULT, and no overrun.


def _get_attr(fd: HasFileno, group: int, attr: int, size: int) -> Result[bytes]:
    with FencedBuffer(size) as value:
        result = device_attr(fd, "KVM_GET_DEVICE_ATTR", group, attr, value.address)
        return result.with_value(value.read())


def _set_attr(fd: HasFileno, group: int, attr: int, value: Buffer | Struct) -> Result[int]:
    given = bytes(value) if isinstance(value, Struct) else any_bytes("value", value)
    with FencedBuffer(len(given)) as copy:
        copy.write(given)
        return device_attr(fd, "KVM_SET_DEVICE_ATTR", group, attr, copy.address)


class DeviceTry:
    """The calls a device fd takes, each giving a Result."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def set_attr(self, group: int, attr: int, value: Buffer | Struct) -> Result[int]:
        """KVM_SET_DEVICE_ATTR: `value` is the attribute's, any buffer or a struct.

        EFAULT: it is shorter than the attribute.
        """
        return _set_attr(self._device, group, attr, value)

    def get_attr(self, group: int, attr: int, size: int) -> Result[bytes]:
        """KVM_GET_DEVICE_ATTR of an attribute of `size` bytes. EFAULT: it is longer."""
        return _get_attr(self._device, group, attr, size)

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
