# SPDX-License-Identifier: MIT
"""The kernel's structs as Python types: fields by name, of the kernel's widths and lengths.

A Struct's class names the kernel's struct and lists fields; their widths and places come from the
binding. What does not fit a field is an error here; what it says is the kernel's to judge.

    class Xcr(Struct, kind="kvm_xcr"):
        xcr: int = 0
        value: int = 0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from operator import attrgetter
from typing import Any, Generic, Self, TypeVar, dataclass_transform, overload

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.result import Result

T = TypeVar("T")


class _Field:
    """What a class says of a field beyond its name: the Struct type of what is inside."""

    def __init__(self, inside: type[Struct] | None = None) -> None:
        self.inside = inside


def inside(kind: type[Struct]) -> Any:
    """Say that a field is a struct of its own, or an array of them: ``cs: Segment = inside(...)``.

    A tagged struct and one without a tag alike; the class of one without has no `kind`.
    """
    return _Field(kind)


def array() -> Any:
    """Say that a field is an array of numbers, or of rows of bytes."""
    return _Field()


# ------------------------------------------------------------------ one field


def _property(name: str, inside: type[Struct] | None) -> property:
    def read(self: Struct) -> Any:
        return _get(name, getattr(self.pointer, name), self._owner, inside)

    def write(self: Struct, value: Any) -> None:
        # What is inside is copied to; a number is assigned, and cffi looks whether it fits.
        if not _copied(name, getattr(self.pointer, name), value, inside):
            with _named(f"{type(self).kind or type(self).__name__}.{name}"):
                setattr(self.pointer, name, value)

    return property(read, write)


def _number(name: str) -> property:
    """Return the property of a field that is a number: most are, and nothing need be looked at."""

    def write(self: Struct, value: Any) -> None:
        try:
            setattr(self.pointer, name, value)
        except (OverflowError, TypeError) as error:
            kind = type(self).kind or type(self).__name__
            raise type(error)(f"{kind}.{name}: {error}") from None

    return property(attrgetter(f"pointer.{name}"), write)


def _get(name: str, data: Any, owner: Any, inside: type[Struct] | None) -> Any:
    if not isinstance(data, ffi.CData):
        return data
    kind = ffi.typeof(data)
    if kind.kind == "array" and kind.item.kind == "primitive" and ffi.sizeof(kind.item) == 1:
        return bytes(ffi.buffer(data))
    if kind.kind == "array":
        return Array(name, data, owner, inside)
    if inside is None:
        raise TypeError(f"{name} is a {kind.cname}: its class is not said")
    return inside._at(data, owner)


def _copied(name: str, data: Any, value: Any, inside: type[Struct] | None) -> bool:
    """Copy `value` to where `data` refers to, if it is no number's place."""
    if not isinstance(data, ffi.CData):
        return False
    kind = ffi.typeof(data)
    if kind.kind == "array" and kind.item.kind == "primitive" and ffi.sizeof(kind.item) == 1:
        given = memoryview(value).tobytes()
        if len(given) != len(data):
            raise ValueError(f"{name} has {len(data)} bytes; {len(given)} were given")
        ffi.buffer(data)[:] = given
    elif kind.kind == "array":
        places: Array[Any] = Array(name, data, None, inside)
        places[:] = value
    else:
        if inside is None or not isinstance(value, inside):
            wanted = kind.cname if inside is None else inside.__name__
            raise TypeError(f"{name}: a {wanted} is required, not {type(value).__name__}")
        ffi.buffer(ffi.addressof(data))[:] = bytes(value)
    return True


class _named:  # noqa: N801 (it reads as a word of the with statement)
    """Put a field's name before what an error says."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OverflowError, TypeError)):
            raise type(error)(f"{self._name}: {error}") from None


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"'{value.hex()}'" if len(value) <= 16 else f"<{len(value)} bytes>"
    if isinstance(value, int):
        return str(value) if -10 < value < 10 else hex(value)
    return repr(value)


# ------------------------------------------------------------------ arrays


class Array(MutableSequence[T], Generic[T]):
    """An array field: it has the length the kernel gives it. Assigning changes the struct."""

    __slots__ = ("_data", "_inside", "_name", "_owner")

    def __init__(self, name: str, data: Any, owner: Any, inside: type[Struct] | None) -> None:
        self._name = name
        self._data = data
        self._owner = owner  # keeps the memory that `data` only refers to
        self._inside = inside

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        return self._item(self._place(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            values = list(value)
            if len(places) != len(values):
                raise ValueError(f"{self._name}: {len(values)} values for {len(places)} places")
            for place, item in zip(places, values, strict=True):
                self._put(place, item)
            return
        self._put(self._place(index), value)

    def __delitem__(self, index: Any) -> None:
        raise TypeError(f"{self._name} has {len(self)} elements, always")

    def insert(self, index: int, value: T) -> None:
        """Refuse: the length is the kernel's."""
        raise TypeError(f"{self._name} has {len(self)} elements, always")

    def __iter__(self) -> Iterator[T]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Array, list, tuple)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "[" + ", ".join(_shown(item) for item in self) + "]"

    def _place(self, index: int) -> int:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"{self._name} has {len(self)} elements: none is {index}")
        return place

    def _item(self, place: int) -> T:
        return _get(f"{self._name}[{place}]", self._data[place], self._owner, self._inside)  # type: ignore[no-any-return]

    def _put(self, place: int, value: Any) -> None:
        name = f"{self._name}[{place}]"
        if not _copied(name, self._data[place], value, self._inside):
            with _named(name):
                self._data[place] = value


# ------------------------------------------------------------------ structs


@dataclass_transform(kw_only_default=True)
class StructType(type):
    """The type of Struct classes: makes the fields of a class from what the binding says."""

    fields: dict[str, _Field]
    kind: str
    pointer_type: Any

    def __new__(  # noqa: D102
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], kind: str = ""
    ) -> StructType:
        fields = {}
        properties = {}
        for field, annotation in namespace.get("__annotations__", {}).items():
            given = namespace.pop(field, None)
            fields[field] = what = given if isinstance(given, _Field) else _Field()
            number = annotation in ("int", int)
            properties[field] = _number(field) if number else _property(field, what.inside)
        namespace.setdefault("__slots__", ())  # no field by a name that is misspelt
        namespace.update(properties)
        made = super().__new__(cls, name, bases, namespace)
        made.fields = fields
        made.kind = kind
        made.pointer_type = ffi.typeof(f"struct {kind} *") if kind else None
        if kind:
            made._tell_inner()
        return made

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], kind: str = ""
    ) -> None:
        super().__init__(name, bases, namespace)

    def _tell_inner(cls) -> None:
        """Tell the classes of what has no tag, and so no name in C, what they are there."""
        sample = ffi.new(cls.pointer_type)
        for name, what in cls.fields.items():
            if what.inside is not None and what.inside.pointer_type is None:
                data = getattr(sample, name)
                if ffi.typeof(data).kind == "array":
                    data = data[0]
                what.inside.pointer_type = ffi.typeof(ffi.addressof(data))


class Struct(metaclass=StructType):
    """One struct of the kernel's, made of zeros and the fields given.

    Compares, copies and pickles by its bytes; ``bytes(struct)`` gives them and ``from_bytes``
    takes them. What is read from a field that is a struct or an array refers to this one.
    """

    __slots__ = ("_owner", "pointer")

    def __init__(self, **fields: Any) -> None:
        #: The cffi pointer: what an ioctl takes, and for `raw_ioctl` a way around the types.
        self.pointer = self._owner = ffi.new(type(self).pointer_type)
        for name, value in fields.items():
            if name not in type(self).fields:
                raise TypeError(f"{type(self).__name__} has no field {name}")
            setattr(self, name, value)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Make one of the bytes that ``bytes()`` gave. ValueError for another number of them."""
        made = cls()
        memory = ffi.buffer(made.pointer)
        if len(data) != len(memory):
            raise ValueError(f"{cls.__name__} has {len(memory)} bytes; {len(data)} were given")
        memory[:] = bytes(data)
        return made

    @classmethod
    def _at(cls, data: Any, owner: Any) -> Self:
        """Refer to a cffi struct that `owner` keeps."""
        made = cls.__new__(cls)
        made.pointer = ffi.addressof(data)
        made._owner = owner
        return made

    def __bytes__(self) -> bytes:
        return bytes(ffi.buffer(self.pointer))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bytes(self) == bytes(other)

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self.from_bytes(bytes(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.from_bytes(bytes(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (bytes(self),)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in type(self).fields)
        return f"{type(self).__name__}({shown})"


S = TypeVar("S", bound=Struct)


def of_type(kind: type[S], value: Any) -> Any:
    """Return the cffi pointer of `value`, a `kind`; TypeError for anything else."""
    if not isinstance(value, kind):
        raise TypeError(f"a {kind.__name__} is required, not {type(value).__name__}")
    return value.pointer


def get(fd: HasFileno, name: str, kind: type[S]) -> Result[S]:
    """Issue an ioctl that fills a struct; the value is that."""
    value = kind()
    result: Result[Any] = ioctl.call(fd.fileno(), name, value.pointer)
    if not result.errno:
        result.value = value  # not with_value(): a second Result takes as long as the ioctl
    return result


def put(fd: HasFileno, name: str, value: S, kind: type[S]) -> Result[int]:
    """Issue an ioctl that takes a struct."""
    return ioctl.call(fd.fileno(), name, of_type(kind, value))


def numbers(name: str, values: Iterable[int], most: int) -> list[int]:
    """Return `values` as a list of at most `most`; ValueError that names the argument else."""
    given = list(values)
    if len(given) > most:
        raise ValueError(f"{name}: at most {most}, not {len(given)}")
    return given
