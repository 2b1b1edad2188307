# SPDX-License-Identifier: MIT
"""The one place that issues ioctls: name, decoded arguments, result, errno, firmware code, trace.

Every call gives a Result; the raising form of a method is its returning form and ``unwrap()``.
A trace entry is one JSON object: ``{"t": seconds, "tid": .., "fd": .., "ioctl": name,
"before": {...}, "after": {...}, "ret": .., "errno": "ok", "fw_error": .., "us": ..}``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TextIO, TypeVar, cast

from kvmharness.errors import UsageError, errno_name
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import size_behind, u64
from kvmharness.kvm.result import KvmError, Result, succeeded

T = TypeVar("T")
P = ParamSpec("P")

# Looked up once: the path of every call goes by here.
_CDATA = ffi.CData
_typeof = ffi.typeof
_ioctl, _ioctl_value, _ioctl_many = lib.kvmh_ioctl, lib.kvmh_ioctl_value, lib.kvmh_ioctl_many
_populate_many = lib.kvmh_populate_many
_run, _run_vcpu, _run_on = lib.kvmh_run, lib.kvmh_run_vcpu, lib.kvmh_run_on

#: Arrays longer than this are cut in a trace; KVM_SET_CPUID2's entries alone would fill a screen.
_TRACE_ARRAY = 64


def raising(
    function: Callable[Concatenate[Any, P], Result[T]],
) -> Callable[Concatenate[Any, P], T]:
    """Make the raising form of a returning method: the same call on ``self.try_``, unwrapped.

    ``try_`` is made anew each time: kept, it would hold its object in a cycle, and an fd that
    nobody refers to any more would stay open until the garbage collector came by.
    """

    @wraps(function, updated=())
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = function(self.try_, *args, **kwargs)
        if result.errno:
            raise KvmError(result)
        return result.value  # type: ignore[return-value]

    returned = str(function.__annotations__["return"])
    if returned.startswith("Result["):
        returned = returned[len("Result[") : -1]
    method.__annotations__ = {**function.__annotations__, "return": returned}
    return cast("Callable[Concatenate[Any, P], T]", _Raising(method, function, returned))


class _Raising:
    """A raising form on its way into its class, where it becomes a function of that class."""

    def __init__(self, method: Any, function: Callable[..., Any], returned: str) -> None:
        self._method = method
        # What inspect and help() go by. A signature takes long to make, so when it is asked for.
        method.__wrapped__ = _Signed(function, returned)

    def __set_name__(self, owner: type, name: str) -> None:
        self._method.__name__ = name
        self._method.__qualname__ = f"{owner.__qualname__}.{name}"
        self._method.__module__ = owner.__module__
        setattr(owner, name, self._method)


class _Signed:
    """The returning form, with the signature of the raising one."""

    def __init__(self, function: Callable[..., Any], returned: str) -> None:
        self.__wrapped__ = function
        self._returned = returned

    @property
    def __signature__(self) -> Any:
        import inspect  # it takes long to load, and most who use the binding never ask

        signature = inspect.signature(self.__wrapped__)
        return signature.replace(return_annotation=self._returned)


# ------------------------------------------------------------------ decoding


def decode(data: Any) -> Any:
    """Turn a cffi struct, pointer to struct, array or number into what JSON can hold.

    Of a union every member is given: which of them counts is for the reader, who has the ioctl.
    """
    if not isinstance(data, ffi.CData):
        return data
    kind = ffi.typeof(data)
    if kind.kind == "pointer":
        if data == ffi.NULL:
            return None
        if kind.item.kind in ("struct", "union"):
            return decode(data[0])
        return f"{int(ffi.cast('uintptr_t', data)):#x}"
    if kind.kind == "array":
        if kind.item.cname in ("unsigned char", "uint8_t", "char", "__u8"):
            return bytes(ffi.buffer(data)[: _TRACE_ARRAY * 8]).rstrip(b"\0").hex()
        return [decode(data[i]) for i in range(min(len(data), _TRACE_ARRAY))]
    if kind.kind in ("struct", "union"):
        decoded = {}
        for name in _field_names(kind):
            decoded[name] = decode(getattr(data, name))
        return decoded
    return int(data)


def _field_names(kind: Any) -> Iterator[str]:
    """Yield a struct's fields, anonymous members' included, without padding and reserved ones."""
    for name, field in kind.fields or ():
        if not name:
            yield from _field_names(field.type)
            continue
        # A flexible array has no length of its own; the caller shows it where it matters.
        flexible = field.type.kind == "array" and field.type.length is None
        if not flexible and not name.startswith(("pad", "reserved")):
            yield name


#: An error shows at most so many fields of a struct; a screen of registers helps nobody.
_BRIEF_FIELDS = 12


def brief(data: Any) -> str:
    """Say an ioctl's argument in a line: ``slot=1, memory_size=0x3000``; fields of 0 are left out.

    Of a struct with zeros alone the first field is given.
    """
    if not isinstance(data, ffi.CData):
        return "" if data is None else f"argument={data:#x}"
    kind = ffi.typeof(data)
    if kind not in _brief_fields:
        _brief_fields[kind] = _plan_brief(kind)
    if not data or not _brief_fields[kind]:
        return ""
    shown: list[tuple[str, int]] = []
    for name, is_array in _brief_fields[kind]:
        value = getattr(data, name)
        if is_array:
            shown += [(f"{name}[{i}]", item) for i, item in enumerate(value) if item]
        elif value:
            shown.append((name, value))
    if not shown:
        shown = [(_brief_fields[kind][0][0], 0)]
    more = ", ..." if len(shown) > _BRIEF_FIELDS else ""
    words = [f"{name}={value if value < 10 else hex(value)}" for name, value in shown]
    return ", ".join(words[:_BRIEF_FIELDS]) + more


#: By type: the numbers of a struct, and whether each is an array of some.
_brief_fields: dict[Any, list[tuple[str, bool]]] = {}


def _plan_brief(kind: Any) -> list[tuple[str, bool]]:
    if kind.kind != "pointer" or kind.item.kind != "struct":
        return []
    inner = dict(_fields(kind.item))
    plan = []
    for name in _field_names(kind.item):
        field = inner[name]
        if field.kind == "primitive":
            plan.append((name, False))
        elif field.kind == "array" and field.item.kind == "primitive" and field.length <= 8:
            plan.append((name, True))
    return plan


def _fields(kind: Any) -> Iterator[tuple[str, Any]]:
    """Yield a struct's fields with their types, anonymous members' included."""
    for name, field in kind.fields or ():
        if name:
            yield name, field.type
        else:
            yield from _fields(field.type)


# ------------------------------------------------------------------ types


def _counted() -> dict[Any, tuple[str, int, int]]:
    """Return the structs that end in an array: the field that says how long it is, and bytes.

    Those of an element, and those before the first.
    """
    counts = {
        "kvm_cpuid": "nent",
        "kvm_cpuid2": "nent",
        "kvm_irq_routing": "nr",
        "kvm_msr_list": "nmsrs",
        "kvm_msrs": "nmsrs",
        "kvm_pmu_event_filter": "nevents",
        "kvm_reg_list": "n",
        "kvm_signal_mask": "len",
    }
    found = {}
    for struct, count in counts.items():
        pointer = ffi.typeof(f"struct {struct} *")
        array = pointer.item.fields[-1][1].type
        found[pointer] = (count, int(ffi.sizeof(array.item)), int(ffi.sizeof(pointer.item)))
    # Its field counts the bytes of all of it.
    found[ffi.typeof("struct kvm_nested_state *")] = ("size", 1, 0)
    return found


_COUNTED = _counted()

#: Where the kernel takes more than the ioctl's number says: bytes.
_TAKES_MORE = {"KVM_MEMORY_ENCRYPT_OP": 24}

#: An unsigned long's largest value.
_MOST = (1 << 64) - 1

#: Where an ioctl's number has the size of its struct; 0 for those that take a value or nothing.
_SIZE_BITS = 0x3FFF << 16

#: Where it has who reads and who writes, and the kernel alone as the one that writes (_IOC_READ).
_DIRECTION, _OUT = 30, 2


class _Known:
    """What is looked up once of an ioctl: its number, and the types of argument that fit it."""

    __slots__ = ("fitting", "request")

    def __init__(self, request: int) -> None:
        self.request = request
        #: Each type with what _COUNTED has of it.
        self.fitting: dict[Any, tuple[str, int, int] | None] = {}


#: By name: those that were called before.
_known: dict[str, _Known] = {}


def _learn(name: str) -> _Known:
    return _known.setdefault(name, _Known(getattr(lib, name)))


def _check(name: str, known: _Known, argument: Any, room: int | None) -> None:
    """Refuse an argument that is not of the size that the ioctl called `name` takes.

    TypeError for what is no C object, or a smaller one, or has fewer entries than it says.
    """
    if isinstance(argument, _CDATA) and argument:
        kind = _typeof(argument)
        if known.fitting.get(kind, kind) is None:
            return  # what comes most: of a type that was seen before, and counts nothing
    if isinstance(argument, int):
        if known.request & _SIZE_BITS:
            raise TypeError(f"{name} takes a struct, not a number; kvm.raw passes an address")
        return
    if not isinstance(argument, _CDATA):
        raise TypeError(f"{name} takes a C struct or a number, not {type(argument).__name__}")
    if not argument:  # and none of its fields can be looked at
        raise TypeError(f"{name} takes a struct, not NULL; kvm.raw passes an address")
    kind = _typeof(argument)
    fitting = known.fitting
    if kind not in fitting:
        _check_size(name, known.request, argument, kind)
        fitting[kind] = _COUNTED.get(kind)
    counted = fitting[kind]
    if counted is not None:
        count, size, before = counted
        given = int(getattr(argument, count))
        there = ((size_behind(argument) if room is None else room) - before) // size
        if given > there:
            raise ValueError(f"{name}: {count} is {given}, of {there} that there are")


def _check_size(name: str, request: int, argument: Any, kind: Any) -> None:
    wanted = max(request >> 16 & 0x3FFF, _TAKES_MORE.get(name, 0))
    if kind.kind == "pointer" and kind.item.kind in ("struct", "union", "primitive"):
        size = int(ffi.sizeof(kind.item))
    elif kind.kind == "array" and kind.length is not None:
        size = int(ffi.sizeof(kind))
    else:
        raise TypeError(f"{name} takes a struct, not {kind.cname}; kvm.raw takes anything")
    if size < wanted:
        raise TypeError(
            f"{name} takes {wanted} bytes, {kind.cname} has {size}; kvm.raw takes anything"
        )


# ------------------------------------------------------------------ trace


class _Recent(list[dict[str, Any]]):
    """A list that forgets its older half when it has twice `limit` entries."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def append(self, entry: dict[str, Any]) -> None:
        if len(self) >= 2 * self._limit:
            del self[: self._limit]
        super().append(entry)


class _Trace:
    """Where entries go: a file, and any number of lists."""

    def __init__(self) -> None:
        #: Whether there is any: every call looks.
        self.on = False
        self.file: TextIO | None = None
        self.lists: list[list[dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.start = time.monotonic()

    def call(
        self,
        name: str,
        fd: int | None,
        ret: int,
        start: float,
        *,
        before: Any = None,
        after: Any = None,
        fw_error: int | None = None,
        spent: float | None = None,
    ) -> None:
        """Add the entry of a call that returned `ret` (-errno on failure), begun at `start`.

        `spent` is how long it took, in seconds, where that was measured.
        """
        self.add(
            {
                "t": round(start - self.start, 6),
                "tid": threading.get_native_id(),
                "fd": fd,
                "ioctl": name,
                "before": before,
                "after": after,
                "ret": max(ret, -1),
                "errno": errno_name(-min(ret, 0)),
                "fw_error": fw_error,
                "us": None if spent is None else round(spent * 1e6, 1),
            }
        )

    def add(self, entry: dict[str, Any]) -> None:
        with self.lock:
            for entries in self.lists:
                entries.append(entry)
            if self.file is not None:
                self.file.write(json.dumps(entry) + "\n")
                self.file.flush()


_trace = _Trace()


def _look() -> None:
    """Note whether anybody traces."""
    global run_vcpu
    _trace.on = bool(_trace.lists) or _trace.file is not None
    run_vcpu = _traced_run_vcpu if _trace.on else _run_vcpu


#: By ioctl: what a trace calls the number it takes, beside the ioctl's own name.
shown_as: dict[str, Callable[[int], str]] = {}


def open_trace(path: str | os.PathLike[str]) -> None:
    """Append one JSON line per ioctl to `path` from now on.

    Raises UsageError if it can't be written.
    """
    close_trace()
    try:
        _trace.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close_trace)
    except OSError as error:
        raise UsageError(f"can't write the trace to {path}: {error.strerror}") from None
    _look()


def close_trace() -> None:
    """Stop writing the trace file."""
    # Under the lock: another thread's entry is written whole, or to the next file.
    with _trace.lock:
        if _trace.file is not None:
            _trace.file.close()
            _trace.file = None
    _look()


@contextmanager
def recording(limit: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """Collect the trace entries of every ioctl made inside the block, by any thread.

    With a `limit`, at least that many of the latest are kept, and at most twice as many.
    """
    entries: list[dict[str, Any]] = _Recent(limit) if limit else []
    _trace.lists.append(entries)
    _look()
    try:
        yield entries
    finally:
        # By identity: two recordings with equal contents are still two.
        _trace.lists[:] = [kept for kept in _trace.lists if kept is not entries]
        _look()


# ------------------------------------------------------------------ the calls


def call(
    fd: int,
    name: str,
    argument: Any = None,
    # By keyword, though not so declared: each such default takes as long to find as a third of an
    # ioctl takes.
    show: Any = None,
    command: str = "",
    room: int | None = None,
    fw_error: Callable[[], int] | None = None,
    written_back: Callable[[], tuple[int, ...]] | None = None,
) -> Result[int]:
    """Issue the ioctl called `name` on `fd`.

    `argument` is None, an int (passed by value) or a cffi pointer to a struct of the ioctl's size:
    TypeError or ValueError for another. `show` is what the trace decodes instead of the argument:
    the struct behind a pointer inside it, say; `command` names the sub-command where the ioctl has
    some; `room` how many bytes `argument` points to, where it is cast from memory that its type
    does not know the length of. `fw_error` and `written_back` are read after the call, whether or
    not it succeeded.
    """
    known = _known.get(name) or _learn(name)
    if argument is not None and (argument.__class__ is not int or known.request & _SIZE_BITS):
        _check(name, known, argument, room)
    if _trace.on:
        ret = _traced(fd, name, known.request, argument, show, command, fw_error)
    else:
        ret = _issue(fd, known.request, argument)
    if ret >= 0 and fw_error is None and written_back is None:
        return succeeded(name, ret, ret)
    if show is None and known.request >> _DIRECTION != _OUT:  # what it would fill says nothing
        show = argument
    return _result(name, ret, show, fw_error, written_back)


def tracing() -> bool:
    """Whether somebody wants to see each ioctl."""
    return _trace.on


def issue_raw(fd: int, name: str, request: int, argument: int, show: Any = None) -> Result[int]:
    """Issue any ioctl with any argument, unchecked: kvm.raw is the door to it."""
    shown = argument if show is None else show
    if _trace.on:
        ret = _traced(fd, name, request, argument, shown, "", None)
    else:
        ret = _issue(fd, request, argument)
    return _result(name, ret, shown, None, None)


def _traced(
    fd: int,
    name: str,
    request: int,
    argument: Any,
    show: Any,
    command: str,
    fw_error: Callable[[], int] | None,
) -> int:
    shown = argument if show is None else show
    if name in shown_as and isinstance(argument, int):
        command = shown_as[name](argument)
    before = decode(shown)
    start = time.monotonic()
    ret = _issue(fd, request, argument)
    spent = time.monotonic() - start
    _trace.call(
        f"{name} {command}".rstrip(),
        fd,
        ret,
        start,
        before=before,
        after=decode(shown) if shown is not None and not isinstance(shown, int) else None,
        fw_error=fw_error() if fw_error else None,
        spent=spent,
    )
    return ret


def _result(
    name: str,
    ret: int,
    shown: Any,
    fw_error: Callable[[], int] | None,
    written_back: Callable[[], tuple[int, ...]] | None,
) -> Result[int]:
    firmware = fw_error() if fw_error else None
    back = written_back() if written_back else None
    if ret >= 0:
        return Result(name, ret, 0, ret, firmware, back)
    return Result(name, -1, -ret, None, firmware, back, arguments=brief(shown))


def _issue(fd: int, request: int, argument: Any) -> int:
    if argument is None:
        argument = 0
    if isinstance(argument, int):
        # ioctl's argument is an unsigned long: -1 and 2**64 - 1 are the same bits.
        if not 0 <= argument <= _MOST:
            argument = u64("the ioctl's argument", argument)
        return _ioctl_value(fd, request, argument)  # type: ignore[no-any-return]
    return _ioctl(fd, request, argument)  # type: ignore[no-any-return]


def many(fd: int, name: str, structs: Any, count: int, done: Any) -> int:
    """Issue the ioctl called `name` with each of `structs`, a C array, and over again, in one go.

    From number done[0] (uint64_t *, advanced) until `count` are done or a turn is over, which give
    0, or one fails: -errno. TypeError or ValueError as call() has it. A trace has one entry.
    """
    known = _known.get(name) or _learn(name)
    _check(name, known, ffi.addressof(structs, 0), None)
    distinct, begun = len(structs), int(done[0])
    size = int(ffi.sizeof(structs)) // distinct
    first = decode(structs[begun % distinct]) if tracing() else None
    start = time.monotonic()
    memory = ffi.cast("char *", structs)
    ret = int(_ioctl_many(fd, known.request, memory, size, distinct, count, done))
    if first is not None:
        _trace.call(
            name,
            fd,
            ret,
            start,
            before={"ioctls": count - begun, "first": first},
            after={"done": int(done[0]) - begun},
            spent=time.monotonic() - start,
        )
    return ret


def populate_many(fd: int, command: str, order: Any, structs: Any, left: str, progress: Any) -> int:
    """Issue KVM_MEMORY_ENCRYPT_OP with each of `structs`, until its field `left` is 0, in one go.

    `order` (struct kvm_sev_cmd * or kvm_tdx_cmd *) is the command, called `command`; its data is
    each of the structs in turn. From number progress[0] (uint64_t[2], advanced; the other counts
    the calls) until all are done or a turn is over, which give 0; 1: a call left all it was to do;
    -errno: it failed. A trace has one entry.
    """
    begun, calls = int(progress[0]), int(progress[1])
    first = decode(structs[begun]) if tracing() else None
    start = time.monotonic()
    ret = int(
        _populate_many(
            fd,
            ffi.cast("char *", order),
            ffi.offsetof(ffi.typeof(order).item, "data"),
            ffi.cast("char *", structs),
            ffi.sizeof(ffi.typeof(structs).item),
            ffi.offsetof(ffi.typeof(structs).item, left),
            len(structs),
            progress,
        )
    )
    if first is not None:
        _trace.call(
            f"KVM_MEMORY_ENCRYPT_OP {command}",
            fd,
            min(ret, 0),
            start,
            before={"structs": len(structs) - begun, "first": first},
            after={"done": int(progress[0]) - begun, "calls": int(progress[1]) - calls},
            spent=time.monotonic() - start,
        )
    return ret


def run(fd: int, kvm_run: Any, timeout_ns: int) -> int:
    """Issue KVM_RUN with a deadline; returns 0 or -errno (-ETIME: the deadline passed)."""
    ret: int
    if not _trace.on:
        ret = _run(fd, kvm_run, timeout_ns)
        return ret
    start = time.monotonic()
    ret = _run(fd, kvm_run, timeout_ns)
    _trace.call(
        "KVM_RUN",
        fd,
        ret,
        start,
        before={"timeout_ns": timeout_ns},
        after={"exit_reason": int(kvm_run.exit_reason)},
        spent=time.monotonic() - start,
    )
    return ret


#: kvmh_run_vcpu()'s.
_SLICE_SECONDS = 0.25


def _traced_run_vcpu(vcpu: Any, seconds: float) -> int:
    first = round(min(_SLICE_SECONDS, seconds) * 1e9)
    return _traced_vcpu(_run_vcpu, vcpu, seconds, {"timeout_ns": first})


#: Claim a vCPU (struct kvmh_vcpu *) for this thread and issue KVM_RUN, with a deadline in seconds.
#: 1: an IN or OUT, which is in vcpu.io now; the claim is given back. All else leaves it: 0 for
#: another exit, or -errno. KVMH_CLOSED or KVMH_BUSY: it could not be claimed. It is the shim's own
#: function unless somebody traces: the instructions that follow an exit are the slow ones.
run_vcpu: Callable[[Any, float], int] = _run_vcpu


def run_on(vcpu: Any, timeout_ns: int) -> int:
    """Issue KVM_RUN on a vCPU that run_vcpu() has claimed; returns as that."""
    if _trace.on:
        return _traced_vcpu(_run_on, vcpu, timeout_ns, {"timeout_ns": timeout_ns})
    return int(_run_on(vcpu, timeout_ns))


def _traced_vcpu(call: Callable[[Any, Any], int], vcpu: Any, limit: float, before: Any) -> int:
    start = time.monotonic()
    ret = int(call(vcpu, limit))
    spent = time.monotonic() - start
    if ret in (lib.KVMH_CLOSED, lib.KVMH_BUSY):
        return ret  # nothing was issued
    reason = lib.KVM_EXIT_IO if ret == 1 else vcpu.run.exit_reason
    _trace.call(
        "KVM_RUN",
        int(vcpu.fd),
        min(ret, 0),
        start,
        before=before,
        after={"exit_reason": int(reason)},
        spent=spent,
    )
    return ret


def run_until(fd: int, kvm_run: Any, size: int, timeout_ns: int, until: Any) -> int:
    """Issue KVM_RUN until an exit that `until`, a struct kvmh_until *, does not pass over.

    Returns 0 there, 1 once until.most exits were made, or -errno as run() does. A trace has one
    entry for all of them.
    """
    start = time.monotonic()
    ret = int(lib.kvmh_run_until(fd, kvm_run, size, timeout_ns, until))
    if tracing():
        _trace.call(
            "KVM_RUN",
            fd,
            min(ret, 0),
            start,
            before={"timeout_ns": timeout_ns},
            after={"exit_reason": int(kvm_run.exit_reason), "exits": int(until.exits)},
            spent=time.monotonic() - start,
        )
    return ret


def system_call(name: str, ret: int, **arguments: Any) -> Result[int]:
    """Make a Result of a system call's return value (-errno on failure), as the shim returns it.

    `arguments` are what the trace shows of the call.
    """
    failed = ret < 0
    given = ", ".join(f"{key}={value:#x}" for key, value in arguments.items()) if failed else ""
    result = Result(
        name,
        -1 if failed else ret,
        -ret if failed else 0,
        None if failed else ret,
        arguments=given,
    )
    if tracing():
        fd = arguments.pop("fd", None)
        _trace.call(name, fd, ret, time.monotonic(), before=arguments)
    return result


if os.environ.get("KVMHARNESS_TRACE"):
    open_trace(os.environ["KVMHARNESS_TRACE"])
