# SPDX-License-Identifier: MIT
"""What kernels are known to answer differently, by the release that made the difference.

Only outcomes that changed are here; what every kernel answers alike stands in the test itself. A
release newer than the last row is held to the last row.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Protocol

Release = tuple[int, int]


class HasErrnoName(Protocol):
    """A Result, as far as it matters here."""

    @property
    def errno_name(self) -> str: ...


@dataclass(frozen=True)
class Row:
    """From release `since` on, one of `outcomes` ("ok" or errno names), as `source` says."""

    since: Release
    outcomes: tuple[str, ...]
    source: str


_MERGE_7_2 = "merge 06ba195f136a, 'KVM guest_memfd changes for 7.2'"

TABLE: dict[str, tuple[Row, ...]] = {
    # KVM_SET_MEMORY_ATTRIBUTES with PRIVATE where KVM_CAP_MEMORY_ATTRIBUTES is 0 on /dev/kvm.
    "attr.absent.kernel": (
        Row((6, 8), ("ENOTTY",), "without the configuration option there is no such ioctl"),
        Row(
            (7, 4), ("ENOTTY", "EINVAL"), "queued: in-place conversion takes the VM's PRIVATE away"
        ),
    ),
    # fallocate modes other than KEEP_SIZE with or without PUNCH_HOLE.
    "gmem.fallocate.modes": (
        Row((6, 8), ("EOPNOTSUPP", "EINVAL"), "vfs_fallocate() refuses some combinations itself"),
        Row((6, 12), ("EOPNOTSUPP",), "vfs_fallocate() knows modes apart from flags; seen on 6.18"),
    ),
    # Two slots, one range of the same guest_memfd.
    "gmem.bind.overlap": (
        Row((6, 8), ("EINVAL",), "kvm_gmem_bind() has one error for everything; seen on 6.18"),
        Row((7, 2), ("EEXIST",), f"{_MERGE_7_2}: EEXIST like overlapping gpas; seen on 7.3"),
    ),
    # A guest_memfd offset so large that offset + size is negative as an loff_t.
    "gmem.bind.offset_overflow": (
        Row((6, 8), ("ok",), "the signed sum passes the check against i_size; seen on 6.18"),
        Row((7, 2), ("EINVAL",), f"{_MERGE_7_2}: offset and size are unsigned; seen on 7.3"),
    ),
}


def running_release() -> Release:
    """Return (major, minor) of the running kernel."""
    return parse_release(os.uname().release)


def parse_release(text: str) -> Release:
    """Return (7, 3) for ``7.3.4-1-amd64``; ValueError for what is not a kernel release."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if not match:
        raise ValueError(f"not a kernel release: {text!r}")
    return int(match[1]), int(match[2])


def row_for(topic: str, release: Release | None = None) -> Row:
    """Return the row that holds for `release` (default: the running kernel's)."""
    release = running_release() if release is None else release
    rows = [row for row in TABLE[topic] if row.since <= release]
    if not rows:
        raise LookupError(f"{topic} says nothing about kernels before {TABLE[topic][0].since}")
    return rows[-1]


def check(topic: str, result: HasErrnoName, **context: Any) -> None:
    """Assert that `result` is what this kernel is known to answer for `topic`."""
    row = row_for(topic)
    wanted = " or ".join(row.outcomes)
    since = ".".join(map(str, row.since))
    assert result.errno_name in row.outcomes, (
        f"{topic}: {result.errno_name}, but Linux {since} and newer answer {wanted} ({row.source})"
        + (f"; {context}" if context else "")
    )
