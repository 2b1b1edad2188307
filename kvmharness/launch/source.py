# SPDX-License-Identifier: MIT
"""Sources of a populate: page-aligned user memory with a chosen flaw.

The address given to the kernel is ``source.address``: the buffer's start plus its misalignment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from kvmharness.closing import Closing
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.fields import Buffer, any_bytes
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    Mapping,
    map_memory,
)
from kvmharness.kvm.result import KvmError

HUGE_PAGE_SIZE = 2 << 20

#: Above vm.mmap_min_addr (64 KiB), below where programs are loaded (4 MiB, if not anywhere).
_UNMAPPED = 0x20000


class SourceBuffer(Closing):
    """`pages` pages of user memory, and one more where the misalignment makes the copy straddle.

    Made by one of the class methods; closed by close() or the with block. `contents` fills the
    buffer from ``address`` on; by default each page holds its own number in every word, so that
    a page copied to the wrong place shows.
    """

    def __init__(self, mapping: Mapping, pages: int, offset: int, backing: OwnedFd | None) -> None:
        self.mapping = mapping
        self.pages = pages
        self.offset = offset
        self._backing = backing

    @property
    def address(self) -> int:
        """User address to pass as the source: the buffer's start plus the misalignment."""
        return self.mapping.address + self.offset

    @property
    def size(self) -> int:
        """Bytes from ``address`` that belong to the source: whole pages."""
        return self.pages * PAGE_SIZE

    @classmethod
    def anonymous(
        cls,
        pages: int = 1,
        *,
        offset: int = 0,
        contents: bytes | None = None,
        prot: int = PROT_READ | PROT_WRITE,
        hole: tuple[int, int] | None = None,
    ) -> Self:
        """Anonymous private memory, misaligned by `offset` bytes, then protected with `prot`.

        `hole` is (first page, number of pages) to unmap.
        """
        mapping = map_memory(_bytes(pages, offset), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        return cls(mapping, pages, offset, None)._finish(contents, prot, hole)

    @classmethod
    def file(cls, pages: int = 1, *, contents: bytes | None = None, shared: bool = True) -> Self:
        """Map an unnamed file of the temporary directory's file system, shared or private."""
        import tempfile

        with tempfile.TemporaryFile() as file:
            file.write(_contents(pages, contents))
            file.flush()
            mapping = map_memory(
                pages * PAGE_SIZE, flags=MAP_SHARED if shared else MAP_PRIVATE, fd=file.fileno()
            )
        return cls(mapping, pages, 0, None)

    @classmethod
    def memfd(cls, pages: int = 1, *, contents: bytes | None = None) -> Self:
        """Map a memfd (shmem), shared."""
        fd = OwnedFd(os.memfd_create("kvmharness-source", os.MFD_CLOEXEC))
        os.truncate(fd.fileno(), pages * PAGE_SIZE)
        mapping = map_memory(pages * PAGE_SIZE, flags=MAP_SHARED, fd=fd.fileno())
        return cls(mapping, pages, 0, fd)._finish(contents, PROT_READ | PROT_WRITE, None)

    @classmethod
    def hugetlb(cls, pages: int = 1, *, contents: bytes | None = None) -> Self:
        """Use 2 MiB hugetlb pages. MissingCapability where none are reserved."""
        size = -(-pages * PAGE_SIZE // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
        try:
            mapping = map_memory(size, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)
        except KvmError as error:
            raise MissingCapability(
                "hugetlb source",
                f"no free 2 MiB huge page ({error.result.errno_name}): reserve some in "
                "/proc/sys/vm/nr_hugepages",
            ) from None
        return cls(mapping, pages, 0, None)._finish(contents, PROT_READ | PROT_WRITE, None)

    @classmethod
    def guest_memfd(
        cls,
        guest_memfd: GuestMemfd,
        pages: int = 1,
        *,
        page_offset: int = 0,
        contents: bytes | None = None,
    ) -> Self:
        """Map `pages` pages of a guest_memfd (made with the MMAP flag) from page `page_offset`.

        The guest_memfd stays the caller's. Its pages have to be shared to be written here.
        """
        mapping = guest_memfd.mmap(pages * PAGE_SIZE, page_offset * PAGE_SIZE)
        return cls(mapping, pages, 0, None)._finish(contents, PROT_READ | PROT_WRITE, None)

    def page(self, index: int) -> bytes:
        """Return the contents of page `index` as the kernel is to copy them, guarded."""
        return self.mapping.read(self.offset + index * PAGE_SIZE, PAGE_SIZE)

    def close(self) -> None:
        """Unmap the buffer and close what backs it. HarnessError while a memslot has it."""
        self.mapping.close()
        if self._backing is not None:
            self._backing.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # As a Mapping's: one that a slot has is left to the VM.
        self.mapping.__exit__(kind, error, traceback)
        if self._backing is not None:
            self._backing.close()

    def _finish(self, contents: bytes | None, prot: int, hole: tuple[int, int] | None) -> Self:
        try:
            self.mapping.write(self.offset, _contents(self.pages, contents))
            if prot != PROT_READ | PROT_WRITE:
                self.mapping.protect(prot)
            if hole is not None:
                self.mapping.unmap(hole[0] * PAGE_SIZE, hole[1] * PAGE_SIZE)
        except BaseException:
            self.close()
            raise
        return self


def unmapped_address(pages: int = 1) -> int:
    """Return a page-aligned user address with nothing mapped for `pages` pages, now and later.

    It lies below everything that is mapped, where mmap(2) puts nothing unless told to: a hole
    that was just unmapped would be the first place for the next mapping.
    """
    with open("/proc/self/maps", encoding="ascii") as maps:
        lowest = int(maps.readline().split("-")[0], 16)
    if _UNMAPPED + pages * PAGE_SIZE > lowest:
        raise HarnessError(f"no room for {pages} unmapped pages below {lowest:#x}")
    return _UNMAPPED


#: What a launch takes contents from: a SourceBuffer, a Mapping, any buffer (bytes, bytearray,
#: memoryview, mmap, array), a user address in bytes, or None for NULL.
Source: TypeAlias = SourceBuffer | Mapping | Buffer | int | None


@contextmanager
def lent(source: Source) -> Iterator[tuple[int, int]]:
    """Give the address that the kernel is told of `source`, and what an address is counted from.

    That is 0 but for a buffer, of which the kernel gets a copy: it wants whole pages, and SNP's
    firmware corrects a CPUID page (sev_gmem_post_populate), which may be nobody's to change. The
    copy is padded by zeros and has a fence behind it. What is changed in it comes back into a
    buffer that can be written to, and into no other.
    """
    if source is None or isinstance(source, (int, SourceBuffer, Mapping)):
        yield memory_address(source), 0
        return
    given = any_bytes("source", source)
    with FencedBuffer(-(-len(given) // PAGE_SIZE) * PAGE_SIZE) as copy:
        copy.write(given)
        try:
            yield copy.address, copy.address
        finally:
            left = copy.read()[: len(given)]
            view = memoryview(source)
            if left != given and not view.readonly:
                view.cast("B")[:] = left


def memory_address(memory: SourceBuffer | Mapping | int | None) -> int:
    """Return the address the kernel is given for `memory`: 0, NULL, for None."""
    if memory is None:
        return 0
    return memory if isinstance(memory, int) else memory.address


def numbered_pages(pages: int) -> bytes:
    """Return `pages` pages in which every 64-bit word is the page's number, counted from 1."""
    return b"".join((page + 1).to_bytes(8, "little") * (PAGE_SIZE // 8) for page in range(pages))


def _contents(pages: int, contents: bytes | None) -> bytes:
    return numbered_pages(pages) if contents is None else contents


def _bytes(pages: int, offset: int) -> int:
    return (pages + (1 if offset else 0)) * PAGE_SIZE
