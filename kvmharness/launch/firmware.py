# SPDX-License-Identifier: MIT
"""The AMD secure processor's status codes by name (SEV_RET_* of linux/psp-sev.h)."""

from __future__ import annotations

import functools

from kvmharness.kvm.ffi import lib


@functools.cache
def firmware_names() -> dict[int, str]:
    """Return the names of the firmware's status codes, by code."""
    names: dict[int, str] = {}
    for name in dir(lib):
        # SEV_RET_INAVLID_CONFIG is the uAPI's own misspelling of the next one.
        if name.startswith("SEV_RET_") and "INAVLID" not in name:
            short = name.removeprefix("SEV_RET_").removeprefix("HWSEV_RET_")
            names.setdefault(
                int(getattr(lib, name)) & 0xFFFFFFFF, short.removeprefix("SEV_STATUS_")
            )
    return names


def firmware_error_name(code: int) -> str:
    """Return the name of a firmware status code (SEV_RET_* of linux/psp-sev.h without prefix)."""
    return firmware_names().get(code & 0xFFFFFFFF, f"{code:#x}")
