# SPDX-License-Identifier: MIT
"""Many ranges populated in one go: each until nothing of it is left, without the interpreter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kvmharness.errors import KernelFault
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.ioctl import brief
from kvmharness.kvm.result import Result


def populate_many(
    target: HasFileno,
    name: str,
    order: Any,
    structs: Any,
    left: str,
    go_on: Collection[int] = (),
) -> tuple[Result[int], int]:
    """Issue the command `order`, called `name`, with each of `structs` until its `left` is 0.

    Ends at the first failure, other than by an errno to `go_on` after. Gives the Result, whose
    value is how many calls it took, and how many of the structs are done. KernelFault when a call
    succeeds without getting anywhere, which a kernel must not do.
    """
    progress = ffi.new("uint64_t[2]")
    total, ret = len(structs), 0
    while progress[0] < total:
        ret = ioctl.populate_many(target.fileno(), name, order, structs, left, progress)
        if ret == 1:
            where = brief(ffi.addressof(structs, progress[0]))
            raise KernelFault(f"{name} returned 0 and left all there was to do: {where}")
        if ret < 0 and -ret not in go_on:
            break
        ret = 0
    done, calls = int(progress[0]), int(progress[1])
    if ret == 0:
        return Result(name, 0, 0, calls), done
    said = f"{brief(ffi.addressof(structs, done))}; {done} of {total} before it were done"
    return Result(name, -1, -ret, arguments=said), done
