# SPDX-License-Identifier: MIT
"""KVM's statistics of a VM or vCPU, from the fd of KVM_GET_STATS_FD.

The layout is that of Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD: a header, an id string, a
descriptor for each statistic, and the values, which alone change.
"""

from __future__ import annotations

import os
from enum import IntEnum
from functools import cached_property

from kvmharness.errors import KernelFault
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.record import Record


class StatType(IntEnum):
    """KVM_STATS_TYPE_*: what a statistic's values are."""

    CUMULATIVE = 0
    INSTANT = 1
    PEAK = 2
    LINEAR_HIST = 3
    LOG_HIST = 4


class StatUnit(IntEnum):
    """KVM_STATS_UNIT_*: what a statistic counts."""

    NONE = 0
    BYTES = 1
    SECONDS = 2
    CYCLES = 3
    BOOLEAN = 4


class Stat(Record, frozen=True):
    """What one statistic is. A value is its number times `base` (2 or 10) to the `exponent`.

    `type` and `unit` are plain numbers where this package has no name for them; `count` is how
    many values it has, `bucket_size` the width of a LINEAR_HIST's.
    """

    name: str
    type: int
    unit: int
    base: int
    exponent: int
    count: int
    bucket_size: int
    offset: int


class StatsFd(OwnedFd):
    """The statistics of one VM or vCPU; while it is open the VM stays alive."""

    def read(self) -> dict[str, int | tuple[int, ...]]:
        """Return the values now, by name: a number, or a tuple where there are several."""
        stats = self.descriptors
        end = max((stat.offset + 8 * stat.count for stat in stats), default=0)
        data = self._read(self._header.data_offset, end)
        values: dict[str, int | tuple[int, ...]] = {}
        for stat in stats:
            numbers = memoryview(data[stat.offset : stat.offset + 8 * stat.count]).cast("Q")
            values[stat.name] = numbers[0] if stat.count == 1 else tuple(numbers)
        return values

    @cached_property
    def id(self) -> str:
        """Name what the statistics are of: ``kvm-123`` with the process's id, ``.../vcpu-0``."""
        return _text(self._read(self._header.id_offset, self._header.name_size))

    @cached_property
    def descriptors(self) -> list[Stat]:
        """What each statistic is, in the kernel's order."""
        header = self._header
        fixed = int(ffi.sizeof("struct kvm_stats_desc"))
        size = fixed + int(header.name_size)
        data = self._read(int(header.desc_offset), size * int(header.num_desc))
        return [_stat(data[at : at + size], fixed) for at in range(0, len(data), size)]

    @cached_property
    def _header(self) -> Header:
        kind = "struct kvm_stats_header *"
        header = ffi.from_buffer(kind, self._read(0, int(ffi.sizeof("struct kvm_stats_header"))))
        return Header(
            int(header.name_size),
            int(header.num_desc),
            int(header.id_offset),
            int(header.desc_offset),
            int(header.data_offset),
        )

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.fileno(), size, offset)
        if len(data) != size:
            raise KernelFault(f"{size} bytes of statistics at {offset}, and {len(data)} came")
        return data


class Header(Record, frozen=True):
    """struct kvm_stats_header: where the rest lies, in bytes from the start."""

    name_size: int
    num_desc: int
    id_offset: int
    desc_offset: int
    data_offset: int


def stats_fd(fd: HasFileno) -> Result[StatsFd]:
    """Issue KVM_GET_STATS_FD on a VM or vCPU fd."""
    result = ioctl.call(fd.fileno(), "KVM_GET_STATS_FD")
    if not result.ok:
        return result.with_value(None)  # type: ignore[arg-type]
    return result.with_value(StatsFd(result.ret))


class VmStatsTry:
    """The VM's statistics, returning form."""

    _vm: HasFileno

    def get_stats_fd(self) -> Result[StatsFd]:
        """KVM_GET_STATS_FD (5.14, KVM_CAP_BINARY_STATS_FD): the VM's statistics."""
        return stats_fd(self._vm)


class VcpuStatsTry:
    """The vCPU's statistics, returning form."""

    _vcpu: HasFileno

    def get_stats_fd(self) -> Result[StatsFd]:
        """KVM_GET_STATS_FD (5.14, KVM_CAP_BINARY_STATS_FD): the vCPU's statistics."""
        return stats_fd(self._vcpu)


class VmStatsCalls:
    """The raising forms, and the statistics at once."""

    get_stats_fd = raising(VmStatsTry.get_stats_fd)

    def stats(self) -> dict[str, int | tuple[int, ...]]:
        """Return the VM's statistics now, by name. get_stats_fd is for many times."""
        with self.get_stats_fd() as fd:
            return fd.read()


class VcpuStatsCalls:
    """The raising forms, and the statistics at once."""

    get_stats_fd = raising(VcpuStatsTry.get_stats_fd)

    def stats(self) -> dict[str, int | tuple[int, ...]]:
        """Return the vCPU's statistics now, by name. get_stats_fd is for many times."""
        with self.get_stats_fd() as fd:
            return fd.read()


def _stat(data: bytes, name_at: int) -> Stat:
    descriptor = ffi.from_buffer("struct kvm_stats_desc *", data)
    flags = int(descriptor.flags)
    power_of_2 = flags & lib.KVM_STATS_BASE_MASK == lib.KVM_STATS_BASE_POW2
    return Stat(
        _text(data[name_at:]),
        _known(StatType, (flags & lib.KVM_STATS_TYPE_MASK) >> lib.KVM_STATS_TYPE_SHIFT),
        _known(StatUnit, (flags & lib.KVM_STATS_UNIT_MASK) >> lib.KVM_STATS_UNIT_SHIFT),
        2 if power_of_2 else 10,
        int(descriptor.exponent),
        int(descriptor.size),
        int(descriptor.bucket_size),
        int(descriptor.offset),
    )


def _known(kind: type[IntEnum], number: int) -> int:
    try:
        return kind(number)
    except ValueError:
        return number


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode()
