# SPDX-License-Identifier: MIT
"""Kernel releases: their order, and which series one belongs to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from kvmharness.errors import HarnessError

#: A kernel series, such as (7, 3).
Series = tuple[int, int]

#: What comes after every release candidate: the release itself.
FINAL = 1 << 16


class NotARelease(HarnessError):
    """A text that names no kernel version."""


@dataclass(frozen=True, order=True)
class Release:
    """A kernel release, ordered as kernels are: 7.3-rc1, 7.3-rc2, 7.3, 7.3.1.

    `point` is 0 for a series' first release; `candidate` is the N of -rcN, FINAL for none.
    """

    major: int
    minor: int
    point: int = 0
    candidate: int = FINAL

    @property
    def series(self) -> Series:
        """The series it belongs to."""
        return self.major, self.minor

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}"
        if self.candidate != FINAL:
            return f"{text}-rc{self.candidate}" if self.candidate else text
        return f"{text}.{self.point}" if self.point else text


_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]rc(\d+))?")


def parse_release(text: str) -> Release:
    """Return the release that ``7.1.4-1-amd64``, ``6.18.44``, ``7.4.0-rc1+`` or ``7.3`` names.

    A series alone is its first release. NotARelease for what is no version.
    """
    match = _RELEASE.match(text)
    if not match:
        raise NotARelease(f"{text!r} is not a kernel version such as 7.3 or 6.18.44-1-amd64")
    major, minor, point, candidate = match.groups()
    return Release(
        int(major), int(minor), int(point or 0), FINAL if candidate is None else int(candidate)
    )


def parse_series(release: str) -> Series:
    """Return (7, 3) for ``7.3``, ``7.3.4-1-amd64`` or ``7.3-rc2``; NotARelease for no version."""
    return parse_release(release).series


def names_a_series(text: str) -> bool:
    """Whether `text` is a series without a point release or candidate: ``7.1``, ``6.12-amd64``."""
    match = _RELEASE.match(text)
    return match is not None and match[3] is None and match[4] is None


def running_series() -> Series:
    """Return the series of the running kernel."""
    return parse_series(os.uname().release)
