# SPDX-License-Identifier: MIT
"""Memory of this process: mappings that unmap themselves, and guarded access to any address."""

from __future__ import annotations

import mmap
import signal
import threading
import weakref
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

from kvmharness.errors import HarnessError, InaccessibleMemory
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import call_c
from kvmharness.kvm.ioctl import system_call
from kvmharness.kvm.memslots import Bindable
from kvmharness.kvm.result import Result

# Looked up once, for the copies; the shim fills in all of a struct kvmh_copy.
# with block, also when a fault is raised: a traceback would keep it, and the interpreter does not
# survive a collected cycle that has a memoryview and what was made from it.
_cast, _from_buffer, _ANYTHING = ffi.cast, ffi.from_buffer, ffi.typeof("void *")
_new_copy = ffi.new_allocator(should_clear_after_alloc=False)

PAGE_SIZE = mmap.PAGESIZE
PROT_NONE = 0
PROT_READ = mmap.PROT_READ
PROT_WRITE = mmap.PROT_WRITE
MAP_SHARED = mmap.MAP_SHARED
MAP_PRIVATE = mmap.MAP_PRIVATE
MAP_ANONYMOUS = mmap.MAP_ANONYMOUS
# Not in Python 3.11's mmap module; the same on every x86 kernel (asm-generic/mman-common.h).
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
# uapi/linux/mempolicy.h
MPOL_DEFAULT = 0
MPOL_BIND = 2
MPOL_INTERLEAVE = 3
_MPOL_F_NODE = 1
_MPOL_F_ADDR = 2


def try_mmap(
    size: int,
    prot: int = PROT_READ | PROT_WRITE,
    flags: int = MAP_SHARED,
    fd: int = -1,
    offset: int = 0,
    address: int = 0,
) -> Result[Mapping]:
    """mmap(2): map `size` bytes of `fd` from `offset` (bytes). The value is the Mapping.

    MAP_FIXED replaces what lies at `address` inside a Mapping; what else the process has there is
    nobody's to give away: EEXIST, as with MAP_FIXED_NOREPLACE.
    """
    if flags & MAP_FIXED and not any(
        whole.address <= address and address + size <= whole.address + whole.size
        for whole in mappings_in(address, size)
    ):
        flags = flags & ~MAP_FIXED | MAP_FIXED_NOREPLACE
    ret = call_c(
        lib.kvmh_mmap, address=address, size=size, prot=prot, flags=flags, fd=fd, offset=offset
    )
    result = system_call("mmap", ret, fd=fd, size=size, prot=prot, flags=flags, offset=offset)
    return result.with_value(Mapping(ret, size) if result.ok else None)  # type: ignore[arg-type]


def map_memory(
    size: int,
    prot: int = PROT_READ | PROT_WRITE,
    flags: int = MAP_SHARED,
    fd: int = -1,
    offset: int = 0,
    address: int = 0,
) -> Mapping:
    """mmap(2), raising KvmError: map `size` bytes of `fd` from `offset` (bytes)."""
    return try_mmap(size, prot, flags, fd, offset, address).unwrap()


# ------------------------------------------------------------------ which memory is whose

# Every open Mapping by its address. A slot is given an address; what it has to hold is found here.
_starts: list[int] = []
_open_mappings: dict[int, list[weakref.ref[Mapping]]] = {}
# Re-entrant: a Mapping may be collected, and so closed, while this thread looks one up.
_open_lock = threading.RLock()


def _remember(mapping: Mapping) -> None:
    with _open_lock:
        there = _open_mappings.setdefault(mapping.address, [])
        if not there:
            insort(_starts, mapping.address)
        there.append(weakref.ref(mapping))


def _forget(mapping: Mapping) -> None:
    with _open_lock:
        there = _open_mappings.get(mapping.address, [])
        # A reference that is dead already is that of a mapping being collected: this one.
        there[:] = [ref for ref in there if ref() not in (mapping, None)]
        if not there and _open_mappings.pop(mapping.address, None) is not None:
            del _starts[bisect_left(_starts, mapping.address)]


def mappings_in(address: int, size: int) -> list[Mapping]:
    """Return the open Mappings that `size` bytes from `address` touch, the innermost first."""
    found = []
    with _open_lock:
        for index in range(bisect_left(_starts, address + size) - 1, -1, -1):
            for ref in reversed(_open_mappings[_starts[index]]):
                mapping = ref()
                if mapping is None or mapping.address + mapping.size <= address:
                    continue
                found.append(mapping)
                if mapping.address <= address and address + size <= mapping.address + mapping.size:
                    return found
    return found


class Mapping(Bindable):
    """A range of this process's memory, unmapped by close(), the with block or with the object.

    ``view()`` is fast and unguarded: touching a page the host may not access kills the
    interpreter. ``read``, ``write`` and ``fill`` raise InaccessibleMemory instead.

    While a VM has a memslot in the range, the VM holds the mapping: close() is HarnessError then.
    """

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self._open = True
        self._viewed: Any = None
        self._holes: list[tuple[int, int]] = []
        self._bindings = set()
        _remember(self)

    @property
    def closed(self) -> bool:
        """Whether the range has been unmapped."""
        return not self._open

    def view(self) -> memoryview:
        """Return the whole range as a writable memoryview of bytes, without a copy.

        The view may outlive close(): it then shows anonymous zeros and no longer the file, until
        its last reference goes.
        """
        return memoryview(ffi.buffer(self.pointer(), self.size)).cast("B")

    def pointer(self, kind: str = "char *") -> Any:
        """Return the range as a C pointer of `kind`, the same each time.

        Like a view it may outlive close(); what it points to is memory for as long as it is held.
        """
        self._check(0, self.size)
        if self._viewed is None:
            address, size, holes = self.address, self.size, self._holes
            self._viewed = ffi.gc(
                ffi.cast(kind, address),
                lambda _, unmap=_unmap_around: unmap(address, size, holes),
            )
        return self._viewed

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset` (bytes), guarded.

        Raises InaccessibleMemory when a page can't be read, ValueError outside the mapping.
        """
        size = self.size - offset if size is None else size
        self._check(offset, size)
        return _read(self._at(offset), size)

    def read_into(self, buffer: bytearray | memoryview, offset: int = 0) -> None:
        """Read from `offset` (bytes) until `buffer`, any writable one, is full, guarded.

        Raises as read() does; `buffer` then has what lies before the page that can't be read.
        """
        with _from_buffer(buffer, require_writable=True) as target:
            size = len(target)
            self._check(offset, size)
            _guarded("read", lib.kvmh_copy, target, self._at(offset), size)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset` (bytes), guarded.

        Raises InaccessibleMemory when a page can't be written; what lies before it is written.
        """
        with _from_buffer(data) as source:
            size = len(source)
            self._check(offset, size)
            _guarded("write", lib.kvmh_copy, self._at(offset), source, size)

    def fill(self, offset: int, size: int, byte: int) -> None:
        """Set `size` bytes from `offset` (bytes) to `byte`, guarded."""
        self._check(offset, size)
        if not 0 <= byte <= 0xFF:
            raise OverflowError(f"byte: {byte} does not fit 8 bits")
        _guarded("write", lib.kvmh_fill, self._at(offset), byte, size)

    def protect(self, prot: int, offset: int = 0, size: int | None = None) -> None:
        """mprotect(2) on `size` bytes from `offset` (bytes)."""
        size = self.size - offset if size is None else size
        self._check(offset, size)
        ret = call_c(lib.kvmh_mprotect, address=self.address + offset, size=size, prot=prot)
        system_call("mprotect", ret, offset=offset, size=size, prot=prot).unwrap()

    def unmap(self, offset: int, size: int, *, let_go: bool = False) -> None:
        """munmap(2) on a part of the range: a hole that close() leaves alone.

        The process may map something else there: nothing keeps the hole empty. HarnessError while a
        memslot has the mapping, unless `let_go` says to do it under the slot.
        """
        self._check(offset, size)
        self._leave_slots(let_go)
        ret = call_c(lib.kvmh_munmap, address=self.address + offset, size=size)
        system_call("munmap", ret, offset=offset, size=size).unwrap()
        self._holes.append((offset, size))

    def try_madvise(self, advice: int, offset: int = 0, size: int | None = None) -> Result[int]:
        """madvise(2) on `size` bytes from `offset` (bytes), returning form."""
        size = self.size - offset if size is None else size
        self._check(offset, size)
        ret = call_c(lib.kvmh_madvise, address=self.address + offset, size=size, advice=advice)
        return system_call("madvise", ret, offset=offset, size=size, advice=advice)

    def try_mlock(self, offset: int = 0, size: int | None = None) -> Result[int]:
        """mlock(2) on `size` bytes from `offset` (bytes), returning form."""
        size = self.size - offset if size is None else size
        self._check(offset, size)
        ret = call_c(lib.kvmh_mlock, address=self.address + offset, size=size)
        return system_call("mlock", ret, offset=offset, size=size)

    def try_mbind(
        self, mode: int, nodes: int, flags: int = 0, offset: int = 0, size: int | None = None
    ) -> Result[int]:
        """mbind(2) on `size` bytes from `offset` (bytes; default: the whole range), returning form.

        `nodes` is a bit mask of NUMA nodes; 0 passes no mask at all, as MPOL_DEFAULT wants it.
        """
        size = self.size - offset if size is None else size
        self._check(offset, size)
        ret = call_c(
            lib.kvmh_mbind,
            address=self.address + offset,
            size=size,
            mode=mode,
            nodes=nodes,
            flags=flags,
        )
        return system_call(
            "mbind", ret, offset=offset, size=size, mode=mode, nodes=nodes, flags=flags
        )

    def memory_policy(self, offset: int = 0) -> tuple[int, int]:
        """get_mempolicy(2) with MPOL_F_ADDR: the (policy, node mask) in force at `offset`."""
        return self._get_mempolicy(_MPOL_F_ADDR, offset)

    def node_of(self, offset: int = 0) -> int:
        """get_mempolicy(2) with MPOL_F_NODE: the NUMA node of the page at `offset`, faulted in."""
        return self._get_mempolicy(_MPOL_F_NODE | _MPOL_F_ADDR, offset)[0]

    def _get_mempolicy(self, flags: int, offset: int) -> tuple[int, int]:
        self._check(offset, 1)
        policy, nodes = ffi.new("int *"), ffi.new("uint64_t *")
        ret = int(lib.kvmh_get_mempolicy(self.address + offset, flags, policy, nodes))
        system_call("get_mempolicy", ret, offset=offset, flags=flags).unwrap()
        return int(policy[0]), int(nodes[0])

    def close(self, *, let_go: bool = False) -> None:
        """Unmap the range; closing twice does nothing.

        HarnessError, which names the slot, while a memslot has the range; with `let_go` it is
        unmapped under the slot, and what the process maps there next is the guest's.
        """
        if not self._open:
            return
        self._leave_slots(let_go)
        self._open = False
        _forget(self)
        if self._viewed is None:
            _unmap_around(self.address, self.size, self._holes)
            return
        # A memoryview may still be held: what it points to has to stay memory. Anonymous pages
        # take the file's place, and the last view's end unmaps them.
        for address, size in _segments(self.address, self.size, self._holes):
            lib.kvmh_mmap(
                address,
                size,
                PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
                -1,
                0,
            )
        self._viewed = None

    def _at(self, offset: int) -> Any:
        return _cast(_ANYTHING, self.address + offset)

    def _check(self, offset: int, size: int) -> None:
        if not self._open:
            raise HarnessError(f"the mapping at {self.address:#x} is closed")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(
                f"bytes {offset:#x}..{offset + size:#x} lie outside a mapping of {self.size:#x}"
            )

    def __del__(self) -> None:
        # When the interpreter ends, this module may be empty already: the kernel unmaps then.
        if getattr(self, "_open", False) and _open_lock is not None:
            # A slot that has it holds it: it is here with one only when the interpreter ends.
            self.close(let_go=True)

    def __repr__(self) -> str:
        return f"<Mapping {self.address:#x}+{self.size:#x}{' closed' if self.closed else ''}>"


def _segments(address: int, size: int, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (address, size) pairs of a range that lie around its holes."""
    segments = []
    position = 0
    for offset, length in [*sorted(holes), (size, 0)]:
        if offset > position:
            segments.append((address + position, offset - position))
        position = max(position, offset + length)
    return segments


def _unmap_around(
    address: int,
    size: int,
    holes: list[tuple[int, int]],
    segments: Callable[..., list[tuple[int, int]]] = _segments,
    munmap: Callable[[int, int], int] = lib.kvmh_munmap,
) -> None:
    for start, length in segments(address, size, holes):
        munmap(start, length)


def guarded_read(address: int, size: int) -> bytes:
    """Read `size` bytes at any address of this process; raises InaccessibleMemory on a fault."""
    return _read(_anywhere(address), size)


def guarded_write(address: int, data: bytes | bytearray | memoryview) -> None:
    """Write `data` at any address of this process; raises InaccessibleMemory on a fault.

    Any address is meant: what the interpreter keeps there is overwritten.
    """
    with _from_buffer(data) as source:
        _guarded("write", lib.kvmh_copy, _anywhere(address), source, len(source))


def _anywhere(address: int) -> Any:
    if not 0 <= address < 1 << 64:
        raise OverflowError(f"address: {address:#x} does not fit 64 bits")
    return _cast(_ANYTHING, address)


def _read(source: Any, size: int) -> bytes:
    if size < 2:  # bytes of these sizes are shared objects
        target = ffi.new("char[]", 1)
        _guarded("read", lib.kvmh_copy, target, source, size)
        return bytes(ffi.buffer(target, size))
    # Written to before anybody has seen it: a buffer of its own would be copied once more.
    data = bytes(size)
    _guarded("read", lib.kvmh_copy, _from_buffer(data), source, size)
    return data


def _guarded(action: str, copy: Any, to: Any, source: Any, size: int) -> None:
    out = _new_copy("struct kvmh_copy *")
    copy(to, source, size, out)
    if out.signal:
        raise InaccessibleMemory(
            action,
            int(out.fault_address),
            int(out.copied),
            signal.Signals(out.signal).name,
            out.code,
        )
