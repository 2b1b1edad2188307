# SPDX-License-Identifier: MIT
"""The sources a populate is tried with, by name: each a page-aligned buffer, or one flaw away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmharness.kvm.mapping import PAGE_SIZE, PROT_NONE, PROT_READ
from kvmharness.launch.source import SourceBuffer, unmapped_address
from kvmharness.scenarios.needs import Need

#: A kernel address (the start of the upper canonical half), and one that no page table reaches.
KERNEL_ADDRESS = 0xFFFF_8000_0000_0000
NONCANONICAL_ADDRESS = 0x8000_0000_0000_0000


@dataclass(frozen=True)
class SourceKind:
    """A way to make the source of `pages` pages; `make` gives a buffer, an address, or None (NULL).

    `contents` given to it replace the numbered pages that a buffer has by default.
    """

    name: str
    summary: str
    make: Callable[[int, bytes | None], SourceBuffer | int | None]
    needs: tuple[Need, ...] = ()


def _misaligned(offset: int) -> Callable[[int, bytes | None], SourceBuffer]:
    return lambda pages, contents: SourceBuffer.anonymous(pages, offset=offset, contents=contents)


SOURCE_KINDS = {
    kind.name: kind
    for kind in (
        SourceKind(
            "aligned",
            "page-aligned anonymous memory",
            lambda pages, contents: SourceBuffer.anonymous(pages, contents=contents),
        ),
        SourceKind("unaligned_1", "one byte past a page's start", _misaligned(1)),
        SourceKind("unaligned", "half a page past a page's start", _misaligned(PAGE_SIZE // 2)),
        SourceKind("unaligned_4095", "the last byte of a page", _misaligned(PAGE_SIZE - 1)),
        SourceKind("null", "NULL", lambda pages, contents: None),
        SourceKind("unmapped", "nothing mapped", lambda pages, contents: unmapped_address(pages)),
        SourceKind(
            "prot_none",
            "memory without any access",
            lambda pages, contents: SourceBuffer.anonymous(
                pages, contents=contents, prot=PROT_NONE
            ),
        ),
        SourceKind(
            "readonly",
            "read-only memory",
            lambda pages, contents: SourceBuffer.anonymous(
                pages, contents=contents, prot=PROT_READ
            ),
        ),
        SourceKind(
            "hole",
            "memory whose second half is not mapped",
            lambda pages, contents: SourceBuffer.anonymous(
                pages, contents=contents, hole=(pages // 2, pages - pages // 2)
            ),
        ),
        SourceKind(
            "file_shared",
            "a shared file mapping",
            lambda pages, contents: SourceBuffer.file(pages, contents=contents),
        ),
        SourceKind(
            "file_private",
            "a private file mapping",
            lambda pages, contents: SourceBuffer.file(pages, contents=contents, shared=False),
        ),
        SourceKind(
            "memfd",
            "a memfd",
            lambda pages, contents: SourceBuffer.memfd(pages, contents=contents),
        ),
        SourceKind(
            "hugetlb",
            "a 2 MiB hugetlb page",
            lambda pages, contents: SourceBuffer.hugetlb(pages, contents=contents),
            ("hugetlb",),
        ),
        SourceKind("kernel_address", "a kernel address", lambda pages, contents: KERNEL_ADDRESS),
        SourceKind(
            "noncanonical",
            "an address no page table reaches",
            lambda pages, contents: NONCANONICAL_ADDRESS,
        ),
    )
}
