# SPDX-License-Identifier: MIT
"""MRTD, the measurement of a TD's first memory, as the TDX module extends it.

Source: Intel TDX Module Base Architecture Specification (348549), "TD Measurement"; the records are
those of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND in the ABI Specification (348551).
"""

from __future__ import annotations

import hashlib
import struct

PAGE_SIZE = 4096
CHUNK_SIZE = 256


class Mrtd:
    """An MRTD in the making: one SHA-384 over all records, begun by TDH.MNG.INIT."""

    def __init__(self) -> None:
        self._hash = hashlib.sha384()
        self.pages = 0

    def page_add(self, gpa: int) -> None:
        """TDH.MEM.PAGE.ADD: the page's address (bytes) is measured, not what is in it."""
        self._hash.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", gpa))
        self.pages += 1

    def extend(self, gpa: int, chunk: bytes) -> None:
        """TDH.MR.EXTEND: 256 bytes of contents at `gpa` (bytes)."""
        self._hash.update(struct.pack("<16sQ104x", b"MR.EXTEND", gpa) + chunk)

    def add_page(self, gpa: int, contents: bytes | None) -> None:
        """Add a page as Linux does: the page, then its 16 chunks if `contents` are measured.

        `contents` are 4096 bytes, or None without KVM_TDX_MEASURE_MEMORY_REGION.
        """
        self.page_add(gpa)
        for offset in range(0, PAGE_SIZE if contents is not None else 0, CHUNK_SIZE):
            assert contents is not None
            self.extend(gpa + offset, contents[offset : offset + CHUNK_SIZE])

    def hexdigest(self) -> str:
        """Return the digest in hex, as if TDH.MR.FINALIZE came now."""
        return self._hash.hexdigest()
