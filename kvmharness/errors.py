# SPDX-License-Identifier: MIT
"""The package's exceptions: each says what happened and, where it can, what to do next."""

from __future__ import annotations

import errno

#: The kernel's names where Python's table has another one, or none.
_NAMES = {0: "ok", 35: "EDEADLK", 95: "EOPNOTSUPP", 133: "EHWPOISON"}


class HarnessError(Exception):
    """Base of every exception this package raises on purpose."""


class UsageError(HarnessError):
    """Bad input at the command line: printed as one line, exit status 2."""


class MissingCapability(HarnessError):
    """This host can't do what was asked; `reason` says why, in words fit for a skip message."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class NotTheKernel(HarnessError):
    """A test could not judge the kernel, for a reason that is not the kernel's.

    Raised in a test, a fixture or a scenario, it ends the test as an *error*: neither passed nor
    failed nor skipped, with the text as its reason, in every format (docs/formats.md). For what a
    person has to look at and no kernel developer can mend: hardware whose firmware answers
    otherwise than the stand-in's, say. A host that merely lacks something is a MissingCapability.
    """


class KernelFault(HarnessError):
    """The kernel did what no kernel may, and no errno says so: a call that never gets on, say."""


class RunTimeout(HarnessError):
    """KVM_RUN did not leave the guest (or the kernel) before its deadline."""


class InaccessibleMemory(HarnessError):
    """A guarded copy met a page that can't be accessed; the interpreter survived.

    Attributes: ``address`` (the first address that faulted), ``copied`` (bytes copied before it),
    ``signal_name`` (SIGBUS or SIGSEGV), ``code`` (the signal's si_code), ``gpa`` (of the first byte
    that was not copied; None if the access was not by gpa).
    """

    def __init__(
        self,
        action: str,
        address: int,
        copied: int,
        signal_name: str,
        code: int,
        gpa: int | None = None,
    ) -> None:
        self.address = address
        self.copied = copied
        self.signal_name = signal_name
        self.code = code
        self.gpa = gpa
        super().__init__(self._message(action))

    def _message(self, action: str) -> str:
        why = {
            "SIGBUS": "the page has no memory the host may touch (private to the guest, or past "
            "the end of the file)",
            "SIGSEGV": "nothing is mapped there, or not for this access",
        }.get(self.signal_name, "the access faulted")
        where = f"{self.address:#x}" + ("" if self.gpa is None else f" (gpa {self.gpa:#x})")
        return f"{action} at {where}: {self.signal_name} after {self.copied} bytes; {why}"


class PrivateMemory(InaccessibleMemory):
    """A read or write by gpa met a page that was made private: nothing was touched or copied.

    ``gpa`` is the first such page's byte, ``address`` where its slot's shared half has it.
    """

    def __init__(self, action: str, address: int, gpa: int) -> None:
        super().__init__(action, address, 0, "", 0, gpa)

    def _message(self, action: str) -> str:
        return (
            f"{action} at gpa {self.gpa:#x}: the page is private to the guest; what the host has "
            "there is its slot's shared half, which the guest does not see (slot_at(gpa).mapping "
            "reaches that)"
        )


def errno_name(number: int) -> str:
    """Return ``EINVAL`` for 22, ``ok`` for 0, and the number itself for an unknown one."""
    return _NAMES.get(number) or errno.errorcode.get(number, str(number))
