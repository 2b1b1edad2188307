# SPDX-License-Identifier: MIT
"""Model-specific registers by index, as KVM_GET_MSRS reads them on /dev/kvm and on a vCPU."""

from __future__ import annotations

from collections.abc import Iterable

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.fields import make
from kvmharness.kvm.result import Result


def read_msrs(fd: HasFileno, indices: Iterable[int]) -> Result[dict[int, int]]:
    """Issue KVM_GET_MSRS; the value maps each index that could be read to its contents."""
    entries = [{"index": index} for index in indices]
    msrs = make("struct kvm_msrs *", nmsrs=len(entries), entries=entries)
    result = ioctl.call(fd.fileno(), "KVM_GET_MSRS", msrs)
    read = range(min(result.ret, len(entries)))
    return result.with_value({int(msrs.entries[i].index): int(msrs.entries[i].data) for i in read})
