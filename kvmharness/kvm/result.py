# SPDX-License-Identifier: MIT
"""What one call did, and the error that says so."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvmharness.errors import HarnessError, errno_name
from kvmharness.record import Record

T = TypeVar("T")
U = TypeVar("U")
_new = object.__new__
#: What an errno usually means when it comes from KVM, where strerror() misleads.
_KVM_MEANING = {
    errno.EINVAL: "KVM refused an argument, or the VM is not in a state that allows this call",
    errno.ENOTTY: "this kernel or this fd does not know the ioctl",
    errno.EIO: "KVM or the firmware failed",
    errno.EFAULT: "an address could not be read or written",
    errno.EEXIST: "the range, slot or id is in use",
    errno.ENOENT: "there is nothing of that number, or it lacks what this call is about",
    errno.ENXIO: "it is not there: no in-kernel controller, no such attribute, or it is turned off",
    errno.E2BIG: "the buffer given is too small for what the kernel has to return",
    errno.EPERM: "not allowed in this VM's state or for this user",
    errno.EBADF: "the fd is closed, or is not of the kind this call takes",
    errno.EOPNOTSUPP: "the kernel does not support this operation here",
    errno.ENODEV: "the object does not support this operation",
}


# Not frozen, though nobody changes one: frozen, it would take longer to make than most ioctls take.
class Result(Record, Generic[T]):
    """What one call did.

    Fields: ``name`` (the ioctl or system call), ``ret`` (what it returned, -1 on failure),
    ``errno`` (0 when it succeeded), ``value`` (what the raising form returns), ``fw_error`` (the
    firmware's code where the call has one), ``written_back`` (the fields the kernel advances, in
    the struct's order, as they are after the call), ``meaning`` and ``fw_error_name`` (what this
    call knows about its errors beyond errno), ``arguments`` (of a failed call: what it was given,
    in a line).
    """

    name: str
    ret: int
    errno: int = 0
    value: T | None = None
    fw_error: int | None = None
    written_back: tuple[int, ...] | None = None
    meaning: str = ""
    fw_error_name: str = ""
    arguments: str = ""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Give what a field that succeeded() leaves out has by default."""
            try:
                return type(self)._defaults[name]
            except KeyError:
                raise AttributeError(f"a Result has no {name}") from None

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.errno == 0

    @property
    def errno_name(self) -> str:
        """``EINVAL`` and the like, or ``ok``."""
        return errno_name(self.errno)

    def unwrap(self) -> T:
        """Return the value, or raise the KvmError that says what failed."""
        if self.errno:
            raise KvmError(self)
        return self.value  # type: ignore[return-value]

    def with_value(self, value: U) -> Result[U]:
        """Return the same result carrying `value`, which a failed call never has."""
        if not self.errno and self.fw_error is None:
            made: Result[U] = succeeded(self.name, self.ret, value)
            made.written_back = self.written_back
            return made
        return Result(
            self.name,
            self.ret,
            self.errno,
            None if self.errno else value,
            self.fw_error,
            self.written_back,
            self.meaning,
            self.fw_error_name,
            self.arguments,
        )

    def __str__(self) -> str:
        text = f"{self.name}: {self.errno_name}"
        if self.fw_error:
            text += f", firmware error {self.fw_error_name or hex(self.fw_error)}"
        return text


def succeeded(name: str, ret: int, value: U) -> Result[U]:
    """Return the Result of a call that returned `ret`, and of which nothing else is known.

    As ``Result(name, ret, 0, value)``, in half the time: most calls end here.
    """
    made: Result[U] = _new(Result)
    made.name = name
    made.ret = ret
    made.errno = 0
    made.value = value
    made.fw_error = made.written_back = None
    return made


class KvmError(HarnessError, OSError):
    """An ioctl or system call on a KVM object failed.

    Attributes: ``result`` (the whole Result), ``errno``, ``fw_error`` (the firmware's code, 0 when
    the firmware was not what failed, None where the call has none).
    """

    def __init__(self, result: Result[Any]) -> None:
        self.result = result
        self.fw_error = result.fw_error
        super().__init__(result.errno, describe(result))

    def __str__(self) -> str:
        return str(self.strerror)


def describe(result: Result[Any]) -> str:
    """Say what failed in a sentence: ioctl, errno, the firmware's code, what the call was given."""
    meaning = result.meaning or _KVM_MEANING.get(result.errno) or os.strerror(result.errno)
    text = f"{result.name} failed: {errno_name(result.errno)} ({meaning})"
    if result.fw_error:
        text += f", firmware error {result.fw_error_name or hex(result.fw_error)}"
    elif result.fw_error == 0 and result.errno == errno.EIO:
        text += ", with no firmware error"
    return f"{text}; {result.arguments}" if result.arguments else text
