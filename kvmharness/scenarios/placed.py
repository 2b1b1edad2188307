# SPDX-License-Identifier: MIT
"""Data in memory that the kernel can't read, can read half of, or can't write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    map_memory,
)

#: Not there, its second half not there, read-only.
BAD, HALF, READONLY = "bad", "half", "readonly"
#: In the first page of the address space, which no process has.
_NOWHERE = 0x10


@contextmanager
def placed(data: bytes, how: str) -> Iterator[int]:
    """Put `data` where `how` says, and give its address."""
    if how == BAD:
        yield _NOWHERE
        return
    whole = -(-len(data) // PAGE_SIZE) * PAGE_SIZE
    with map_memory(2 * whole, flags=MAP_PRIVATE | MAP_ANONYMOUS) as memory:
        start = whole - len(data) // 2 if how == HALF else 0
        memory.write(start, data)
        if how == HALF:
            memory.protect(PROT_NONE, whole, whole)
        else:
            memory.protect(PROT_READ)
        yield memory.address + start
