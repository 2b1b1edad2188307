# SPDX-License-Identifier: MIT
"""The door for wrong sizes and pointers on purpose: tests of the kernel's own copy_from_user().

Everywhere else in the binding a struct has the type and size that its ioctl takes.
"""

from __future__ import annotations

from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.fenced import FencedBuffer, fenced_copy
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import u64
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct


def raw_ioctl(
    fd: HasFileno | int, request: int | str, argument: bytes | bytearray | int | Any = 0
) -> Result[int]:
    """Issue any ioctl, by name or by number, with any `argument`.

    An int is passed as it is: an address that happens to be this process's is read or written.
    Anything else is a buffer of any length (bytes, a bytearray, a struct, typed or C's), copied to
    where a page that can't be touched follows: a kernel that goes past its end gets EFAULT there.
    What it leaves in the copy comes back into a bytearray or a struct; bytes are read alone.
    """
    name = request if isinstance(request, str) else f"ioctl {request:#x}"
    number = int(getattr(lib, request)) if isinstance(request, str) else u64("request", request)
    where = fd if isinstance(fd, int) else fd.fileno()
    if isinstance(argument, int):
        return ioctl.issue_raw(where, name, number, u64("argument", argument))
    if isinstance(argument, Struct):
        argument = argument.pointer
    if isinstance(argument, ffi.CData):
        with fenced_copy(argument) as address:
            return ioctl.issue_raw(where, name, number, address, argument)
    view = memoryview(argument)
    with FencedBuffer(view.nbytes) as fenced:
        fenced.write(view)
        result = ioctl.issue_raw(where, name, number, fenced.address)
        if not view.readonly:
            view.cast("B")[:] = fenced.read()
    return result
