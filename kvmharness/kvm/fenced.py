# SPDX-License-Identifier: MIT
"""A buffer that ends where a page begins that nobody may touch.

For what the kernel fills or reads by a size of its own: going past the end is EFAULT in the
kernel's copy, and not somebody else's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kvmharness.closing import Closing
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import size_behind
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    map_memory,
)


class FencedBuffer(Closing):
    """`size` bytes right before the fence, at ``address``. It begins as zeros."""

    def __init__(self, size: int) -> None:
        self.size = size
        whole = -(-size // PAGE_SIZE) * PAGE_SIZE
        # The fence is mapped, not left out: nothing else can come to lie there.
        self._mapping = map_memory(whole + PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS)
        if whole:
            self._mapping.protect(PROT_READ | PROT_WRITE, 0, whole)
        self._start = whole - size
        # It stays memory for as long as it is held, also past close().
        self._contents = self._mapping.view()[self._start : whole]

    @property
    def address(self) -> int:
        """User address of the first byte."""
        return self._mapping.address + self._start

    def read(self) -> bytes:
        """Return the contents."""
        return bytes(self._contents)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Set the contents from the first byte on."""
        self._contents[: memoryview(data).nbytes] = memoryview(data).cast("B")

    def clear(self) -> None:
        """Set the contents to zeros."""
        self._contents[:] = bytes(self.size)

    def close(self) -> None:
        """Unmap the buffer and the fence."""
        self._mapping.close()


@contextmanager
def fenced_copy(value: Any) -> Iterator[int]:
    """Give the address of a copy of what a cffi pointer or array holds, with the fence behind it.

    What is in the copy at the end comes back. TypeError for a `value` that has no size.
    """
    contents = _contents(value)
    with FencedBuffer(len(contents)) as buffer:
        buffer.write(contents)
        yield buffer.address
        contents[:] = buffer.read()


def _contents(value: Any) -> Any:
    kind = ffi.typeof(value) if isinstance(value, ffi.CData) else None
    if kind is not None and kind.kind == "array":
        return ffi.buffer(value)
    if kind is not None and kind.kind == "pointer" and kind.item.kind not in ("void", "function"):
        if value:
            return ffi.buffer(value, size_behind(value))
        raise TypeError("a C pointer to something is required, not NULL")
    what = type(value).__name__ if kind is None else kind.cname
    raise TypeError(f"a C pointer or array is required, not {what}")
