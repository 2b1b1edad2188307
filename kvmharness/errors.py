# SPDX-License-Identifier: MIT
"""The package's exceptions: each says what happened and, where it can, what to do next."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmharness.ioctl import Result

#: What an errno usually means when it comes from KVM, where strerror() misleads.
_KVM_MEANING = {
    errno.EINVAL: "KVM refused an argument, or the VM is not in a state that allows this call",
    errno.ENOTTY: "this kernel or this fd does not know the ioctl",
    errno.EIO: "KVM or the firmware failed; a firmware code of 0 means that KVM refused",
    errno.EFAULT: "an address could not be read or written",
    errno.EEXIST: "the range, slot or id is in use",
    errno.E2BIG: "the buffer given is too small for what the kernel has to return",
    errno.EPERM: "not allowed in this VM's state or for this user",
    errno.EBADF: "the fd is closed, or is not of the kind this call takes",
    errno.EOPNOTSUPP: "the kernel does not support this operation here",
    errno.ENODEV: "the object does not support this operation",
}

#: The kernel's names where Python's table has another one, or none.
_NAMES = {0: "ok", 35: "EDEADLK", 95: "EOPNOTSUPP", 133: "EHWPOISON"}


class HarnessError(Exception):
    """Base of every exception this package raises on purpose."""


class UsageError(HarnessError):
    """Bad input at the command line: printed as one line, exit status 2."""


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


class MissingCapability(HarnessError):
    """This host can't do what was asked; `reason` says why, in words fit for a skip message."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class RunTimeout(HarnessError):
    """KVM_RUN did not leave the guest (or the kernel) before its deadline."""


class InaccessibleMemory(HarnessError):
    """A guarded copy met a page that can't be accessed; the interpreter survived.

    Attributes: ``address`` (the first address that faulted), ``copied`` (bytes copied before it),
    ``signal_name`` (SIGBUS or SIGSEGV), ``code`` (the signal's si_code).
    """

    def __init__(self, action: str, address: int, copied: int, signal_name: str, code: int) -> None:
        self.address = address
        self.copied = copied
        self.signal_name = signal_name
        self.code = code
        why = {
            "SIGBUS": "the page has no memory the host may touch (private to the guest, or past "
            "the end of the file)",
            "SIGSEGV": "nothing is mapped there, or not for this access",
        }.get(signal_name, "the access faulted")
        super().__init__(f"{action} at {address:#x}: {signal_name} after {copied} bytes; {why}")


def errno_name(number: int) -> str:
    """Return ``EINVAL`` for 22, ``ok`` for 0, and the number itself for an unknown one."""
    return _NAMES.get(number) or errno.errorcode.get(number, str(number))


def describe(result: Result[Any]) -> str:
    """Say what failed in a sentence: the ioctl, the errno, the firmware's code, what it means."""
    meaning = result.meaning or _KVM_MEANING.get(result.errno) or os.strerror(result.errno)
    text = f"{result.name} failed: {errno_name(result.errno)} ({meaning})"
    if result.fw_error is not None:
        text += f", firmware error {result.fw_error_name or hex(result.fw_error)}"
    return text
