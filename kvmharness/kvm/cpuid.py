# SPDX-License-Identifier: MIT
"""CPUID as KVM takes and gives it: struct kvm_cpuid2, with exactly the entries that it says."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, overload

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import any_bytes
from kvmharness.kvm.result import Result
from kvmharness.record import Record

#: What KVM itself has room for (KVM_MAX_CPUID_ENTRIES).
MAX_CPUID_ENTRIES = 256

# struct kvm_cpuid_entry2: function, index, flags, the registers, three words of padding.
_ENTRY = struct.Struct("<7I12x")
_HEADER = struct.Struct("<I4x")


if TYPE_CHECKING:

    class _Changes(TypedDict, total=False):
        function: int
        index: int
        eax: int
        ebx: int
        ecx: int
        edx: int
        flags: int


class CpuidEntry(Record, frozen=True):
    """struct kvm_cpuid_entry2: a leaf's registers, or the bits that are allowed in them.

    `flags` are KVM_CPUID_FLAG_*: SIGNIFCANT_INDEX (1) where the leaf has one for each `index`.
    """

    function: int
    index: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0
    flags: int = 0

    if TYPE_CHECKING:

        def replaced(self, **changes: Unpack[_Changes]) -> Self:  # type: ignore[override]
            """Record's, in which a type checker finds a misspelt register."""
            return super().replaced(**changes)

    def __repr__(self) -> str:
        shown = [hex(self.function)]
        for name in type(self).__match_args__[1:]:
            if value := getattr(self, name):
                shown.append(f"{name}={value:#x}")
        return f"CpuidEntry({', '.join(shown)})"


class Cpuid(MutableSequence[CpuidEntry]):
    """struct kvm_cpuid2: a list of entries; its nent is their number.

    ``bytes()`` gives the kernel's struct and ``from_bytes`` takes it.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[CpuidEntry] = ()) -> None:
        self._entries = _checked(entries)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Make one of a struct kvm_cpuid2's bytes. ValueError if nent is not what follows."""
        given = any_bytes("data", data)  # bytes() of a number is as many zeros
        entries, rest = divmod(len(given) - _HEADER.size, _ENTRY.size)
        if entries < 0 or rest:
            raise ValueError(f"{len(given)} bytes are no struct kvm_cpuid2 of whole entries")
        (nent,) = _HEADER.unpack_from(given)
        if nent != entries:
            raise ValueError(f"nent is {nent}, of {entries} entries that there are")
        return cls(_unpacked(given[_HEADER.size :]))

    @property
    def nent(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def leaf(self, function: int, index: int = 0) -> CpuidEntry | None:
        """Return the entry of a leaf and sub-leaf; None if there is none."""
        for entry in self._entries:
            if entry.function == function and entry.index == index:
                return entry
        return None

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> CpuidEntry: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> CpuidEntry | Self:
        if isinstance(index, slice):
            return type(self)(self._entries[index])
        return self._entries[index]

    @overload
    def __setitem__(self, index: int, value: CpuidEntry) -> None: ...

    @overload
    def __setitem__(self, index: slice, value: Iterable[CpuidEntry]) -> None: ...

    def __setitem__(self, index: int | slice, value: CpuidEntry | Iterable[CpuidEntry]) -> None:
        if isinstance(index, slice):
            self._entries[index] = _checked(value)
        else:
            (self._entries[index],) = _checked([value])

    def __delitem__(self, index: int | slice) -> None:
        del self._entries[index]

    def insert(self, index: int, value: CpuidEntry) -> None:
        """Insert an entry before `index`."""
        self._entries[index:index] = _checked([value])

    def __iter__(self) -> Iterator[CpuidEntry]:
        return iter(self._entries)

    def __bytes__(self) -> bytes:
        return _HEADER.pack(len(self._entries)) + packed_entries(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Cpuid, list, tuple)) and self._entries == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Cpuid({self._entries})"

    def __copy__(self) -> Self:
        return type(self)(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._entries,)


# ------------------------------------------------------------------ to the kernel and back


def get_cpuid(fd: HasFileno, name: str) -> Result[Cpuid]:
    """Issue an ioctl that fills a struct kvm_cpuid2. E2BIG: there is more than KVM has room for."""
    data = ffi.new("struct kvm_cpuid2 *", {"entries": MAX_CPUID_ENTRIES})
    data.nent = MAX_CPUID_ENTRIES
    result = ioctl.call(fd.fileno(), name, data)
    return result.with_value(read_cpuid(data, MAX_CPUID_ENTRIES if result.ok else 0))


def set_cpuid(fd: HasFileno, name: str, cpuid: Iterable[CpuidEntry]) -> Result[int]:
    """Issue an ioctl that takes a struct kvm_cpuid2."""
    packed = packed_entries(cpuid)
    data = ffi.new("struct kvm_cpuid2 *", {"entries": len(packed) // _ENTRY.size})
    data.nent = len(packed) // _ENTRY.size
    write_entries(data, packed)
    return ioctl.call(fd.fileno(), name, data)


def packed_entries(cpuid: Iterable[CpuidEntry]) -> bytes:
    """Return entries as the kernel's array of them.

    TypeError for what is no entry, OverflowError with its name for a number of more than 32 bits.
    """
    # Field by field is slow where the processor is emulated: a launch moves some 200 entries.
    entries = _checked(cpuid)
    try:
        return b"".join(
            [_ENTRY.pack(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries]
        )
    except struct.error:
        for number, entry in enumerate(entries):
            for name in CpuidEntry.__match_args__:
                value = getattr(entry, name)
                if not isinstance(value, int):
                    raise TypeError(f"cpuid[{number}].{name}: an integer is required") from None
                if not 0 <= value < 1 << 32:
                    raise OverflowError(
                        f"cpuid[{number}].{name}: {value:#x} does not fit 32 bits"
                    ) from None
        raise


def write_entries(data: Any, packed: bytes) -> None:
    """Copy packed entries to where a cffi struct kvm_cpuid2, which has room for them, has its."""
    _entries_of(data, len(packed))[:] = packed


def read_cpuid(data: Any, room: int) -> Cpuid:
    """Return the entries that the kernel filled in, of `room` that a cffi struct kvm_cpuid2 has."""
    return Cpuid(_unpacked(_entries_of(data, min(int(data.nent), room) * _ENTRY.size)))


def _entries_of(data: Any, size: int) -> Any:
    return ffi.buffer(ffi.cast("char *", ffi.addressof(data, "entries")), size)


def _unpacked(data: Any) -> Iterator[CpuidEntry]:
    for function, index, flags, eax, ebx, ecx, edx in _ENTRY.iter_unpack(data):
        yield CpuidEntry(function, index, eax, ebx, ecx, edx, flags)


def _checked(entries: Any) -> list[CpuidEntry]:
    try:
        given = None if isinstance(entries, (str, bytes, bytearray)) else list(entries)
    except TypeError:
        given = None
    if given is None:
        raise TypeError(f"a Cpuid is required, not {type(entries).__name__}")
    for number, entry in enumerate(given):
        if not isinstance(entry, CpuidEntry):
            kind = type(entry).__name__
            raise TypeError(f"cpuid[{number}]: a CpuidEntry is required, not {kind}")
    return given
