# SPDX-License-Identifier: MIT
"""The emulated host's software TDX module, where there is one: MRTD, pages it owns, faults.

Nothing of it exists on hardware: whoever asks gets None there and has to make do.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from kvmharness.standins import proc

_STATE = Path("/proc/kvmharness_tdx")
_PARAMETERS = Path("/sys/module/tdx_standin/parameters")
_NO_LEAF = -1


class Seamcall(IntEnum):
    """Leaf numbers of the TDX module's functions (TDX module ABI, host-side interface)."""

    MNG_ADDCX = 1
    MEM_PAGE_ADD = 2
    MEM_SEPT_ADD = 3
    VP_ADDCX = 4
    MEM_PAGE_AUG = 6
    MEM_RANGE_BLOCK = 7
    MNG_KEY_CONFIG = 8
    MNG_CREATE = 9
    VP_CREATE = 10
    MNG_RD = 11
    MR_EXTEND = 16
    MR_FINALIZE = 17
    MNG_INIT = 21
    VP_INIT = 22
    MEM_PAGE_REMOVE = 29
    MEM_TRACK = 38


def present() -> bool:
    """Whether this kernel runs on the stand-in for TDX."""
    return _STATE.exists()


def read_state() -> dict[str, str]:
    """Return the stand-in's state as its key=value lines; empty on hardware."""
    return proc.read_state(_STATE)


def page_counts() -> dict[str, int] | None:
    """Return how many pages the TDX module owns of each type, and keys; None on hardware."""
    state = read_state()
    if not state:
        return None
    counts = proc.counts_of(state, "pages_")
    counts["keyids"] = int(state["keyids"])
    return counts


def keys() -> int:
    """Return how many keys there are for TDs. KeyError on hardware, which does not tell."""
    return int(read_state()["keyids_all"])


def mrtd() -> str | None:
    """Return MRTD of the TD used last, in hex, as if finalized now; None on hardware."""
    return read_state().get("digest")


def inject(leaf: Seamcall, status: int, after: int = 0, times: int = 1) -> None:
    """Have `leaf` return `status`, doing nothing, `times` times, after `after` more of it."""
    for name, value in (
        ("inject_status", status),
        ("inject_after", after),
        ("inject_times", times),
        ("inject_leaf", int(leaf)),  # last: it arms the others
    ):
        (_PARAMETERS / name).write_text(str(value))


def clear_injection() -> None:
    """Take back an injection that has not struck."""
    if present():
        (_PARAMETERS / "inject_leaf").write_text(str(_NO_LEAF))


def plant_leak(pages: int) -> None:
    """Have the module keep the next `pages` pages that are removed: a mistake to be found."""
    (_PARAMETERS / "leak").write_text(str(pages))


def forget_leaks() -> None:
    """Have the module give up the pages that planted leaks left with it."""
    plant_leak(0)


def wait_for_counts(expected: dict[str, int] | None, seconds: float) -> dict[str, int] | None:
    """Wait until the counts are `expected`, and return what they are in the end."""
    return proc.wait_for(page_counts, expected, seconds)
