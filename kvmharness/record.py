# SPDX-License-Identifier: MIT
"""Small objects of a few named values, which cost next to nothing until one is made.

    class IoExit(Record):
        port: int
        data: bytes = b""

Such a class has what a dataclass with slots has: ``__init__``, ``__match_args__``, ``==``, hash,
repr, copies and pickles. A dataclass, though, compiles all of it when its module is imported: a
millisecond each, of which the binding would need fifty, and twenty times that on an emulated host.
Here ``__init__`` alone is compiled, for the first object. Defaults are values that nobody changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from inspect import Signature

#: A repr has so many bytes of a value, or says how many there are.
_SHOWN = 64


def _values(record: Any) -> tuple[Any, ...]:
    return tuple([getattr(record, name) for name in type(record).__match_args__])


def _shown(value: Any) -> str:
    long = isinstance(value, bytes) and len(value) > _SHOWN
    return f"<{len(value)} bytes>" if long else repr(value)


def _refuse(self: Any, name: str, value: Any = None) -> None:
    raise AttributeError(f"a {type(self).__name__} is not changed: replaced() gives another")


def _init_later(self: Any, *args: Any, **kwargs: Any) -> None:
    """Stand where ``__init__`` will be, until the first object of a class is made."""
    _own_init(type(self))(self, *args, **kwargs)


def _own_init(cls: Any) -> Callable[..., None]:
    """Return the ``__init__`` of `cls`, compiled the first time."""
    if cls.__init__ is _init_later:
        cls.__init__ = _compile_init(cls)
    made: Callable[..., None] = cls.__init__
    return made


def _compile_init(cls: Any) -> Callable[..., None]:
    fields = cls.__match_args__
    names = {f"_{field}": value for field, value in cls._defaults.items()}
    parameters = [f"{name}=_{name}" if name in cls._defaults else name for name in fields]
    if cls._frozen:
        names["_set"] = object.__setattr__
        lines = [f"_set(self, {name!r}, {name})" for name in fields]
    else:
        lines = [f"self.{name} = {name}" for name in fields]
    body = "\n    ".join(lines or ["pass"])
    exec(f"def __init__(self, {', '.join(parameters)}):\n    {body}", names)  # as dataclasses does
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    for base in reversed(cls.__mro__):
        made.__annotations__ |= getattr(base, "__annotations__", {})
    made.__annotations__ = {name: made.__annotations__[name] for name in fields}
    return made


@dataclass_transform()
class RecordType(type):
    """The type of Record classes: makes the fields of a class from its annotations.

    With ``frozen=True`` assigning to a field is an AttributeError; it takes three times as long to
    make one then.
    """

    __match_args__: tuple[str, ...]
    _defaults: dict[str, Any]
    _frozen: bool

    def __new__(  # noqa: D102
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], frozen: bool = False
    ) -> RecordType:
        own = [
            field
            for field, kind in namespace.get("__annotations__", {}).items()
            if not str(kind).startswith("ClassVar")
        ]
        fields: dict[str, None] = {}
        defaults: dict[str, Any] = {}
        for base in bases:
            if isinstance(base, RecordType):
                fields |= dict.fromkeys(base.__match_args__)
                defaults |= base._defaults
                frozen = frozen or base._frozen
        # A slot and a class attribute can't have one name.
        defaults |= {field: namespace.pop(field) for field in own if field in namespace}
        namespace["__slots__"] = tuple(own)
        namespace["__match_args__"] = (*fields, *own)
        namespace["_defaults"] = defaults
        namespace["_frozen"] = frozen
        namespace.setdefault("__init__", _init_later)
        if frozen:
            namespace["__setattr__"] = namespace["__delattr__"] = _refuse
        return super().__new__(cls, name, bases, namespace)

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], frozen: bool = False
    ) -> None:
        super().__init__(name, bases, namespace)

    @property
    def __signature__(cls) -> Signature:
        """What inspect.signature() and help() show, before the first object as after it."""
        from inspect import signature

        whole = signature(_own_init(cls))
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class Record(metaclass=RecordType):
    """Base of what is a few named values. Two are equal if they are of one class and so are those.

    ``replaced(field=value)`` gives a copy that differs there.
    """

    __match_args__: ClassVar[tuple[str, ...]]

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with other values in some fields. TypeError for what is no field."""
        values = {name: getattr(self, name) for name in type(self).__match_args__}
        return type(self)(**values | changes)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        fields = type(self).__match_args__
        shown = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in fields)
        return f"{type(self).__qualname__}({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), _values(self)
