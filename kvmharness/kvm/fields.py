# SPDX-License-Identifier: MIT
"""Values on their way into C: each fits its field's size and type, or an error names the field.

What the value says is the kernel's to judge; that it is an integer of that many bits, so many bytes
or that struct has to hold before, since the kernel reads and writes by the type alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kvmharness.kvm.ffi import ffi

if TYPE_CHECKING:
    from typing_extensions import Buffer as Buffer
else:  # its name in Python before 3.12 is known to type checkers alone
    Buffer = bytes | bytearray | memoryview

_CDATA = ffi.CData
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


def make(kind: str, **fields: Any) -> Any:
    """Make a C object of `kind`, a pointer to a struct, from its `fields`; the others are zero.

    OverflowError or TypeError, naming the field, for a value that the field can't hold.
    """
    try:
        return ffi.new(kind, fields)
    except (OverflowError, TypeError) as error:
        _name_field(kind, fields, error)


def make_array(kind: str, rows: Sequence[dict[str, int]]) -> Any:
    """Make a C array of `kind`, a struct, an element for each row; errors are make()'s."""
    try:
        return ffi.new(f"{kind}[]", rows)
    except (OverflowError, TypeError):
        for row in rows:
            make(f"{kind} *", **row)
        raise


def _name_field(kind: str, fields: dict[str, Any], error: Exception) -> NoReturn:
    """Raise `error` again with the name of the field that causes it."""
    # Once more and one by one: only what failed pays for finding out where.
    for name, value in fields.items():
        try:
            ffi.new(kind, {name: value})
        except (OverflowError, TypeError) as cause:
            raise type(cause)(f"{_short(kind)}.{name}: {cause}") from None
    raise error


def _short(kind: str) -> str:
    return kind.removeprefix("struct ").removesuffix(" *")


def call_c(function: Callable[..., Any], **arguments: Any) -> int:
    """Call a C function of the shim with `arguments`, which are in its order.

    OverflowError or TypeError, naming the argument, for a value that its type can't hold.
    """
    try:
        return int(function(*arguments.values()))
    except (OverflowError, TypeError):
        for (name, value), kind in zip(arguments.items(), ffi.typeof(function).args, strict=True):
            try:
                ffi.new(ffi.getctype(kind, "*"), value)
            except (OverflowError, TypeError) as cause:
                raise type(cause)(f"{name}: {cause}") from None
        raise


def u64(name: str, value: int) -> int:
    """Return `value` as the 64 bits that C passes by value: -1 and 2**64 - 1 are the same."""
    if not isinstance(value, int):
        raise TypeError(f"{name}: an integer is required, not {type(value).__name__}")
    if not -(1 << 63) <= value <= _U64:
        raise OverflowError(f"{name}: {value:#x} does not fit 64 bits")
    return value & _U64


def fd_number(name: str, fd: Any) -> int:
    """Return the number of `fd`, an object or a number, for a field that is a __u32.

    -1 is the same bits as 2**32 - 1, and a value like any other.
    """
    number = fd if isinstance(fd, int) else fd.fileno()
    if not -(1 << 31) <= number <= _U32:
        raise OverflowError(f"{name}: {number:#x} does not fit 32 bits")
    return int(number) & _U32


def bytes_up_to(name: str, data: Buffer, size: int) -> bytes:
    """Return `data`, any buffer, as bytes for a field of `size` bytes; shorter is padded by zeros.

    ValueError, naming the field, when it is longer.
    """
    given = any_bytes(name, data)
    if len(given) > size:
        raise ValueError(f"{name} has {size} bytes; {len(given)} were given")
    return given


def bytes_exactly(name: str, data: Buffer, size: int) -> bytes:
    """Return `data`, any buffer, as the `size` bytes that the kernel reads.

    ValueError, naming the field, when it is shorter or longer.
    """
    given = any_bytes(name, data)
    if len(given) != size:
        raise ValueError(f"{name} has to be {size} bytes; {len(given)} were given")
    return given


def any_bytes(name: str, data: Buffer) -> bytes:
    """Return what any buffer holds. TypeError, naming the argument, for what is none."""
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"{name}: bytes are required, not {type(data).__name__}") from None


def pointer_to(kind: str) -> Callable[[Any], Any]:
    """Return a function that takes a ``struct KIND *`` and refuses, by TypeError, all else."""
    wanted = ffi.typeof(f"struct {kind} *")

    def check(data: Any) -> Any:
        # isinstance first: typeof() takes a string too, for the type's name.
        if isinstance(data, _CDATA) and ffi.typeof(data) is wanted and data:
            return data
        raise TypeError(f"a struct {kind} * is required, not {_described(data)}")

    return check


def _described(data: Any) -> str:
    if isinstance(data, _CDATA):
        return (
            "NULL"
            if ffi.typeof(data).kind == "pointer" and not data
            else str(ffi.typeof(data).cname)
        )
    return type(data).__name__


def size_behind(pointer: Any) -> int:
    """Return how many bytes `pointer`'s object has; of a flexible array, what was made with it."""
    item = ffi.typeof(pointer).item
    return int(ffi.sizeof(pointer[0] if item.kind in ("struct", "union") else item))
