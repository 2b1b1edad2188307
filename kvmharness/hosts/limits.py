# SPDX-License-Identifier: MIT
"""How long a command may run, and be silent, and which of the two limits it has passed."""

from __future__ import annotations

import time

from kvmharness.hosts.host import Silence, Verdict


class Limits:
    """The limits of one command, from begin() on: `timeout` seconds in all, and its silence."""

    def __init__(self, timeout: float, silence: Silence) -> None:
        self._timeout = timeout
        self._silence = silence
        self._ends = float("inf")
        self._heard = float("inf")

    def begin(self) -> None:
        """Count from now on."""
        self._heard = time.monotonic()
        self._ends = self._heard + self._timeout

    def heard(self) -> None:
        """Note that the command has just written something."""
        self._heard = time.monotonic()

    def left(self) -> float:
        """Return the seconds until a limit is passed; none may be left, and it may never be."""
        return min(self._ends, self._heard + self._silence()) - time.monotonic()

    def passed(self) -> tuple[Verdict, str]:
        """Return which limit was passed, and what to say of it."""
        if time.monotonic() >= self._ends:
            return Verdict.TIMEOUT, f"still running {self._timeout:g} s after the command began"
        return Verdict.SILENT, f"nothing was heard of the command for {self._silence():g} s"
