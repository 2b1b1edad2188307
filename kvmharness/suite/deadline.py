# SPDX-License-Identifier: MIT
"""A deadline for a block of code in the main thread, and a watchdog for when that can't work.

At the deadline a Python exception is raised wherever the code is. Code that never comes back to
Python (a C call that retries, a system call the kernel does not return from) can't be reached so:
the watchdog then writes out every thread's stack and ends the process, which whoever started it
notices.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds that code gets after its exception before the watchdog ends the process.
GRACE = 15.0
#: Seconds between exceptions, for code that swallows one: Python drops what a finalizer raises.
AGAIN = 5.0


@contextmanager
def deadline(seconds: float, passed: Callable[[], BaseException]) -> Iterator[None]:
    """Raise ``passed()`` in the block after `seconds`, and again every AGAIN; 0 is no deadline.

    Outside the main thread there is no deadline: signals reach only that one.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise passed()

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, on_alarm)
    outer, outer_again = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            # A deadline around this one goes on; if it came meanwhile, it comes now.
            left = outer - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), outer_again)


class Watchdog:
    """Ends the process when a deadline had no effect. It is a thread, made anew by each arming.

    The stacks go to where stderr points when the watchdog is made.
    """

    def __init__(self) -> None:
        self._stacks_to = os.dup(2)
        self._ends_at = 0.0

    def cover(self, seconds: float) -> None:
        """Have the process end no earlier than `seconds` and GRACE from now, and soon after.

        Armed for twice as long as asked, so that the short phases of a test share one arming.
        """
        now = time.monotonic()
        if now + seconds + GRACE > self._ends_at:
            self._ends_at = now + 2 * seconds + GRACE
            faulthandler.dump_traceback_later(self._ends_at - now, exit=True, file=self._stacks_to)

    def stop(self) -> None:
        """Let the process live, and the thread end."""
        if self._ends_at:
            faulthandler.cancel_dump_traceback_later()
            self._ends_at = 0.0

    def close(self) -> None:
        """Stop, and give back the fd."""
        self.stop()
        os.close(self._stacks_to)
