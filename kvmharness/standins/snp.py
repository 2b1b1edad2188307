# SPDX-License-Identifier: MIT
"""The emulated host's software RMP and firmware, where there is one: digests, page states, faults.

Nothing of it exists on hardware: whoever asks gets None there and has to make do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from kvmharness.standins import proc

_STATE = Path("/proc/kvmharness_snp")
_LAUNCH = Path("/proc/kvmharness_snp_launch")
_PARAMETERS = Path("/sys/module/snp_standin/parameters")


#: ASIDs from here on are SEV's, those below SEV-ES's and SNP's (CPUID 0x8000001F EDX).
MIN_SEV_ASID = 32


class FirmwareCall(IntEnum):
    """What can be made to fail: firmware commands by their numbers, and what reaches the RMP.

    SEV_CMD_* of <linux/psp-sev.h>, which is not uAPI; from 0x100 on functions of the kernel that
    the stand-in replaces (vm_images/emulated_host/snp_standin/standin.h).
    """

    SNP_DF_FLUSH = 0x84
    SNP_DECOMMISSION = 0x90
    SNP_ACTIVATE = 0x91
    SNP_GCTX_CREATE = 0x93
    SNP_LAUNCH_START = 0xA0
    SNP_LAUNCH_UPDATE = 0xA1
    SNP_LAUNCH_FINISH = 0xA2
    SNP_PAGE_RECLAIM = 0xC7
    RMP_MAKE_PRIVATE = 0x100
    RMP_MAKE_SHARED = 0x101
    PSMASH = 0x102
    LOOKUP_RMPENTRY = 0x103
    ALLOC_FIRMWARE_PAGE = 0x104
    PLATFORM_INIT = 0x105


@dataclass(frozen=True)
class Failure:
    """A call that fails `times` times after `after` of it have passed, and does nothing.

    `result` above 0 is the status that the firmware gives. Below 0 it is an errno, negated: what
    the kernel's function returns; for a command the ccp driver's own, with which the firmware was
    not asked (EBUSY: the driver takes the secure processor for dead).
    """

    call: FirmwareCall
    result: int
    after: int = 0
    times: int = 1

    @property
    def name(self) -> str:
        """What fails."""
        return self.call.name


@dataclass(frozen=True)
class GivenPage:
    """A page as SNP_LAUNCH_UPDATE had it; `contents` is the SHA-384 before encryption, in hex."""

    gpa: int
    type: int
    imi: int
    vmpl_permissions: tuple[int, int, int]
    contents: str


class PageState(IntEnum):
    """A page's state in the RMP, by the numbers of the stand-in (firmware ABI, chapter 5)."""

    PRE_GUEST = 4
    GUEST_INVALID = 5
    GUEST_VALID = 6


@dataclass(frozen=True)
class RmpEntry:
    """What the RMP has of one of the guest's pages, but for VMSAs."""

    state: PageState
    large: bool


@dataclass(frozen=True)
class Given:
    """What KVM gave to the firmware for the launch started last: see record.c of the stand-in."""

    fields: dict[str, str]
    pages: tuple[GivenPage, ...]
    vmsas: tuple[bytes, ...]
    rmp: dict[int, RmpEntry] = field(default_factory=dict)


def present() -> bool:
    """Whether this kernel runs on the stand-in for SNP."""
    return _STATE.exists()


def read_state() -> dict[str, str]:
    """Return the stand-in's state as its key=value lines; empty on hardware."""
    return proc.read_state(_STATE)


def rmp_counts() -> dict[str, int] | None:
    """Return how many pages the software RMP holds in each state; None on hardware."""
    state = read_state()
    if not state:
        return None
    return proc.counts_of(state, "rmp_")


def launch_digest() -> str | None:
    """Return the launch digest of the guest context touched last, in hex; None on hardware."""
    return read_state().get("digest")


def given_not_empty() -> int:
    """Return how many pages guests were given, but by LAUNCH_UPDATE, that were not all zeros."""
    return int(read_state()["not_empty"])


def given() -> Given | None:
    """Return what KVM gave to the firmware for the launch started last; None on hardware."""
    state = proc.read_state(_LAUNCH)
    if not state:
        return None
    pages = []
    for number in range(int(state["pages"])):
        gpa, *numbers, contents = state.pop(f"page.{number}").split()
        type_, imi, *permissions = map(int, numbers)
        vmpl_1, vmpl_2, vmpl_3 = permissions
        pages.append(GivenPage(int(gpa, 16), type_, imi, (vmpl_1, vmpl_2, vmpl_3), contents))
    rmp = {}
    for name in [name for name in state if name.startswith("rmp.")]:
        number, large, vmsa = map(int, state.pop(name).split())
        if not vmsa:
            rmp[int(name.removeprefix("rmp."), 16)] = RmpEntry(PageState(number), bool(large))
    vmsas = [bytes.fromhex(state.pop(f"vmsa.{number}")) for number in range(int(state["vmsas"]))]
    return Given(state, tuple(pages), tuple(vmsas), rmp)


def inject(*failures: Failure) -> None:
    """Have these calls fail, and none that was to fail before."""
    text = ",".join(f"{f.call:x}:{f.result}:{f.after}:{f.times}" for f in failures)
    (_PARAMETERS / "inject").write_text(text + "\n")


def clear_injection() -> None:
    """Take back what has not struck."""
    if present():
        inject()


def struck() -> int:
    """Return how many calls have failed on purpose since the host was booted."""
    return int(read_state()["injected"])


def forget() -> None:
    """Have the stand-in give up all pages and ASIDs, which a failure left to nobody.

    The kernel uses neither again. Only for when no guest is alive.
    """
    (_PARAMETERS / "forget").write_text("1\n")


def smt() -> bool:
    """Return whether the stand-in's machine has SMT on, which a policy may forbid."""
    return (_PARAMETERS / "smt").read_text().strip() == "Y"


@contextmanager
def without_smt() -> Iterator[None]:
    """Have the stand-in's machine without SMT inside the block."""
    (_PARAMETERS / "smt").write_text("N")
    try:
        yield
    finally:
        (_PARAMETERS / "smt").write_text("Y")


def wait_for_counts(expected: dict[str, int] | None, seconds: float) -> dict[str, int] | None:
    """Wait until the RMP's counts are `expected`, and return what they are in the end."""
    return proc.wait_for(rmp_counts, expected, seconds)
