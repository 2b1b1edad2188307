# SPDX-License-Identifier: MIT
"""Whose fault an exception is: the kernel's, which is a failure, or ours, which is an error."""

from __future__ import annotations

import pytest

from kvmharness.errors import (
    HarnessError,
    InaccessibleMemory,
    KernelFault,
    NotTheKernel,
    RunTimeout,
)

#: What a kernel can bring about (KvmError is an OSError), and verdicts: a skip that gets here is
#: one that --require made a failure.
_OF_THE_KERNEL = (
    AssertionError,
    InaccessibleMemory,
    KernelFault,
    OSError,
    RunTimeout,
    pytest.fail.Exception,
    pytest.skip.Exception,
)


def is_ours(error: BaseException, phase: str) -> bool:
    """Whether an exception of this phase of a test (setup, call, teardown) leaves nothing known.

    A test's own code may fail in any way for want of what the kernel should have done. What goes
    wrong around it is an error, unless it is something that a kernel can bring about. Of this
    package's own exceptions, NotTheKernel among them, the others are errors in a test too.
    """
    if isinstance(error, _OF_THE_KERNEL):
        return False
    return phase != "call" or isinstance(error, HarnessError)


def own_words(error: BaseException) -> str:
    """Return the reason that an exception gives in words meant for a report, on one line."""
    return " ".join(str(error).split()) if isinstance(error, NotTheKernel) else ""
