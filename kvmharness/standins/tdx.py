# SPDX-License-Identifier: MIT
"""The emulated host's software TDX module, where there is one: MRTD, pages it owns, faults.

Nothing of it exists on hardware: whoever asks gets None there and has to make do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from kvmharness.standins import proc

_STATE = Path("/proc/kvmharness_tdx")
_LAUNCH = Path("/proc/kvmharness_tdx_launch")
_PARAMETERS = Path("/sys/module/tdx_standin/parameters")


class Seamcall(IntEnum):
    """Leaf numbers of the TDX module's functions (TDX module ABI, host-side interface).

    KEYID_ALLOC is none: the kernel's choice of a key, which can be made to fail as well.
    """

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
    VP_FLUSH = 18
    MNG_VPFLUSHDONE = 19
    MNG_KEY_FREEID = 20
    MNG_INIT = 21
    VP_INIT = 22
    VP_RD = 26
    PHYMEM_PAGE_RECLAIM = 28
    MEM_PAGE_REMOVE = 29
    MEM_TRACK = 38
    PHYMEM_CACHE_WB = 40
    PHYMEM_PAGE_WBINVD = 41
    VP_WR = 43
    KEYID_ALLOC = 0x100


@dataclass(frozen=True)
class Failure:
    """A leaf that returns `status` and does nothing, `times` times after `after` calls of it."""

    leaf: Seamcall
    status: int
    after: int = 0
    times: int = 1

    @property
    def name(self) -> str:
        """What fails."""
        return self.leaf.name


@dataclass(frozen=True)
class GivenPage:
    """A page as MEM.PAGE.ADD had it, and the chunks that MR.EXTEND measured, a bit each.

    `contents` is the SHA-384 of its source, in hex.
    """

    gpa: int
    extended: int
    contents: str


@dataclass(frozen=True)
class GivenVcpu:
    """A vCPU as VP.INIT had it, and what VP.WR left in its fields, by their ids."""

    rcx: int
    x2apic_id: int
    fields: dict[int, int]


@dataclass(frozen=True)
class Given:
    """What KVM gave to the module for the TD initialized last: see record.c of the stand-in.

    `fields` are TD_PARAMS as text; `cpuid` has its registers EAX to EDX by leaf and subleaf.
    """

    fields: dict[str, str]
    cpuid: dict[tuple[int, int], tuple[int, ...]]
    vcpus: tuple[GivenVcpu, ...]
    pages: tuple[GivenPage, ...]


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


def given() -> Given | None:
    """Return what KVM gave to the module for the TD initialized last; None on hardware."""
    state = proc.read_state(_LAUNCH)
    if not state:
        return None
    cpuid = {
        (
            int(name.removeprefix("cpuid."), 16) & 0xFFFFFFFF,
            int(name.removeprefix("cpuid."), 16) >> 32,
        ): tuple(int(register, 16) for register in state[name].split())
        for name in state
        if name.startswith("cpuid.")
    }
    vcpus = []
    for number in range(int(state["vcpus"])):
        rcx, x2apic_id = state[f"vcpu.{number}"].split()
        prefix = f"vcpu.{number}."
        fields = {
            int(name.removeprefix(prefix), 16): int(value, 16)
            for name, value in state.items()
            if name.startswith(prefix)
        }
        vcpus.append(GivenVcpu(int(rcx, 16), int(x2apic_id), fields))
    pages = []
    for number in range(int(state["pages"])):
        gpa, extended, contents = state.pop(f"page.{number}").split()
        pages.append(GivenPage(int(gpa, 16), int(extended, 16), contents))
    return Given(state, cpuid, tuple(vcpus), tuple(pages))


def inject(*failures: Failure) -> None:
    """Have these leaves fail, and none that was to fail before."""
    text = ",".join(f"{f.leaf:x}:{f.status:x}:{f.after}:{f.times}" for f in failures)
    (_PARAMETERS / "inject").write_text(text + "\n")


def clear_injection() -> None:
    """Take back what has not struck."""
    if present():
        inject()


def struck() -> int:
    """Return how many calls have failed on purpose since the host was booted."""
    return int(read_state()["injected"])


def forget() -> None:
    """Have the module give up all TDs, pages and keys, which a failure left to nobody.

    The kernel uses none of the pages again. Only for when no TD is alive.
    """
    (_PARAMETERS / "forget").write_text("1\n")


def plant_leak(pages: int) -> None:
    """Have the module keep the next `pages` pages that are removed: a mistake to be found."""
    (_PARAMETERS / "leak").write_text(str(pages))


def forget_leaks() -> None:
    """Have the module give up the pages that planted leaks left with it."""
    plant_leak(0)


def wait_for_counts(expected: dict[str, int] | None, seconds: float) -> dict[str, int] | None:
    """Wait until the counts are `expected`, and return what they are in the end."""
    return proc.wait_for(page_counts, expected, seconds)
