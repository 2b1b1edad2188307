# SPDX-License-Identifier: MIT
"""Which of its modules' code guests have run, boot after boot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kvmharness.coverage.block_log import stretches

#: A shell command that tells where the sections with code of each loaded module are, a line each:
#: "/sys/module/kvm/sections/.text 0xffffffffc0401000".
TELL_SECTIONS = 'for f in /sys/module/*/sections/.*text; do echo "$f $(cat "$f")"; done'

#: Code that is gone once a module is loaded; other modules take its place.
_DISCARDED = ".init.text"
_SECTION = re.compile(r"^/sys/module/(\w+)/sections/(\S+) 0x([0-9a-f]+)$", re.MULTILINE)

#: A module as the kernel names it (kvm_amd), and a section of it.
Section = tuple[str, str]


def sections_told(text: str) -> dict[Section, int]:
    """Return the address of each section, out of what TELL_SECTIONS says."""
    return {
        (found[1], found[2]): int(found[3], 16)
        for found in _SECTION.finditer(text)
        if found[2] != _DISCARDED
    }


class Executed:
    """The bytes of modules' sections that were run in any of the boots.

    `sizes`: of the sections that are of interest, in bytes. Where a section is loaded may differ
    from boot to boot; what is kept here are offsets in it.
    """

    def __init__(self, sizes: Mapping[Section, int]) -> None:
        self._ran = {section: bytearray(size) for section, size in sizes.items()}
        #: Boots whose log was added.
        self.boots = 0

    def add(self, addresses: Mapping[Section, int], log: bytes) -> None:
        """Add what one boot ran: where its sections were, and what QEMU wrote."""
        self.add_stretches(addresses, stretches(log))
        self.boots += 1

    def add_stretches(
        self, addresses: Mapping[Section, int], ran: Iterable[tuple[int, int]]
    ) -> None:
        """Add stretches of addresses that were run."""
        places = [
            (at, at + len(self._ran[section]), self._ran[section])
            for section, at in addresses.items()
            if section in self._ran
        ]
        for begin, end in ran:
            for first, last, bytes_ in places:
                low, high = max(begin, first), min(end, last)
                if low < high:
                    bytes_[low - first : high - first] = b"\1" * (high - low)

    def ran(self, section: Section, offset: int) -> bool:
        """Whether the byte at an offset of a section was run."""
        bytes_ = self._ran.get(section)
        return bytes_ is not None and bool(bytes_[offset])
