# SPDX-License-Identifier: MIT
"""The kernel's taint: what it notes down for good when it has warned, oopsed, or met a bad page."""

from __future__ import annotations

from pathlib import Path

_FILE = Path("/proc/sys/kernel/tainted")
#: The letter of each bit (kernel/panic.c, taint_flags); a kernel's newer ones have none here.
_LETTERS = "PFSRMBUDAWCIOELKXTNJ"


def read(path: Path = _FILE) -> int | None:
    """Return the taint as a mask, None where it can't be read. No privilege is needed."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def letters(mask: int) -> list[str]:
    """Return the letters of the mask's bits, in their order; ``bit 31`` for an unknown one."""
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [_LETTERS[bit] if bit < len(_LETTERS) else f"bit {bit}" for bit in bits]
