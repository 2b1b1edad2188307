# SPDX-License-Identifier: MIT
"""Which clocks of guests are right, and that the figure they are told is this machine's."""

from __future__ import annotations

import pytest

from kvmharness.hosts import tsc
from kvmharness.hosts.guest_clock import GuestClock


@pytest.mark.parametrize(
    ("guest", "ours", "wrong"),
    [
        (1.5, 1.5, False),
        (1.5, 1.1, False),  # the first line was read late
        (1.5, 2.0, False),  # the last one was
        (10.0, 1.5, True),
        (0.2, 1.5, True),
        (60.0, 62.0, False),
        (60.0, 70.0, True),
        (70.0, 60.0, True),
        (600.0, 605.0, False),
    ],
)
def test_a_clock_is_wrong_that_differs_by_more_than_we_may_be_late(
    guest: float, ours: float, wrong: bool
) -> None:
    clock = GuestClock()
    clock.reading(3.0, 1000.0)
    assert (clock.rate, clock.wrong) == (None, "")
    clock.reading(3.0 + guest, 1000.0 + ours)
    assert clock.rate == pytest.approx(guest / ours)
    assert bool(clock.wrong) == wrong
    if wrong:
        assert clock.wrong == f"its time is wrong: {guest:.1f} s of it in {ours:.1f} s"


def test_the_counter_s_frequency_is_measured_the_same_each_time() -> None:
    first, second = tsc.khz.__wrapped__(), tsc.khz.__wrapped__()
    assert 100_000 < first < 20_000_000
    assert abs(first - second) <= first / 1000
