# SPDX-License-Identifier: MIT
"""Reads what the cpio writer wrote."""

from __future__ import annotations


def read(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read a newc archive: name to mode, contents and device."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found[name] = (mode, archive[at : at + size], device)
        at += (size + 3) // 4 * 4
