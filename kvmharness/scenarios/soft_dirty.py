# SPDX-License-Identifier: MIT
"""Which pages of this process were written since it last asked: the kernel's soft-dirty bits."""

from __future__ import annotations

import os
from pathlib import Path

from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, map_memory

_CLEAR = "4"
_BIT = 55


def clear() -> None:
    """Call all pages of this process clean: the next write to one sets its bit."""
    Path("/proc/self/clear_refs").write_text(_CLEAR)


def is_set(address: int) -> bool:
    """Whether the page at `address` was written since clear()."""
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        entry = os.pread(fd, 8, address // PAGE_SIZE * 8)
    finally:
        os.close(fd)
    return bool(int.from_bytes(entry, "little") >> _BIT & 1)


def works() -> bool:
    """Whether the kernel keeps these bits: it takes CONFIG_MEM_SOFT_DIRTY."""
    with map_memory(PAGE_SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as page:
        page.write(0, b"x")
        try:
            clear()
        except OSError:
            return False
        clean = not is_set(page.address)
        page.write(0, b"y")
        return clean and is_set(page.address)
