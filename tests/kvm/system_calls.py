# SPDX-License-Identifier: MIT
"""Outcomes of plain system calls, in the words Results use."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from kvmharness.errors import errno_name

P = ParamSpec("P")


def outcome_of(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Return "ok", or the errno's name when `call` raises OSError."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return errno_name(error.errno or 0)
    return "ok"
