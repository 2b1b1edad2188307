# SPDX-License-Identifier: MIT
"""The frequency of this machine's time stamp counter (TSC), which an emulated host has to be told.

QEMU's software emulation hands the machine's own counter to the guest (cpu_get_host_ticks in its
include/qemu/timer.h), so the frequency is the same. A guest that measures it against emulated
timers gets it wrong now and then where the machine is busy.
"""

from __future__ import annotations

import functools
import time

from kvmharness.kvm.ffi import lib

#: Seconds between the two readings.
_STRETCH = 0.02
#: Of so many tries the one counts whose clock was read in the shortest time.
_TRIES = 8


@functools.cache
def khz() -> int:
    """Return the frequency in kHz, to 0.1 MHz; it is measured once, in 20 ms."""
    began, first = _reading()
    time.sleep(_STRETCH)
    ended, second = _reading()
    return 100 * round((second - first) * 1e4 / (ended - began))


def _reading() -> tuple[float, int]:
    """Return the time in nanoseconds, not adjusted by NTP, and the counter at that time."""
    tries = []
    for _ in range(_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        counter = lib.kvmh_tsc()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        tries.append((after - before, (before + after) / 2, counter))
    _, when, counter = min(tries)
    return when, counter
