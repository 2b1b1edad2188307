# SPDX-License-Identifier: MIT
"""The emulated host's software RMP and firmware, where there is one: digests, page states, faults.

Nothing of it exists on hardware: whoever asks gets None there and has to make do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmharness.standins import proc

_STATE = Path("/proc/kvmharness_snp")
_PARAMETERS = Path("/sys/module/snp_standin/parameters")


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


def inject(command: int, error: int, after: int = 0) -> None:
    """Have the firmware fail a `command` once, with status `error`, after `after` more of it."""
    for name, value in (("inject_error", error), ("inject_after", after)):
        (_PARAMETERS / name).write_text(str(value))
    (_PARAMETERS / "inject_command").write_text(str(command))


def clear_injection() -> None:
    """Take back an injection that has not struck."""
    if present():
        (_PARAMETERS / "inject_command").write_text("0")


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
