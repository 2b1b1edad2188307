# SPDX-License-Identifier: MIT
"""Kernel releases: which series one belongs to."""

from __future__ import annotations

import re

from kvmharness.errors import HarnessError

#: A kernel series, such as (7, 3).
Series = tuple[int, int]


class NotARelease(HarnessError):
    """A text that names no kernel version."""


def parse_series(release: str) -> Series:
    """Return (7, 3) for ``7.3``, ``7.3.4-1-amd64`` or ``7.3-rc2``; NotARelease for no version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if not match:
        raise NotARelease(f"{release!r} is not a kernel version such as 7.3 or 6.18.44-1-amd64")
    return int(match[1]), int(match[2])
