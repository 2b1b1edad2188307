# SPDX-License-Identifier: MIT
"""Which gpas are private, compared with a list that has one entry a page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvmharness.machine.private_ranges import PrivateRanges

PAGES = 24
RANGE = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES), st.booleans())


@given(st.lists(RANGE, max_size=30))
def test_ranges_are_what_was_set_last(changes: list[tuple[int, int, bool]]) -> None:
    ranges = PrivateRanges()
    pages = [False] * (2 * PAGES)
    for start, length, private in changes:
        ranges.set(start, length, private=private)
        pages[start : start + length] = [private] * length
        for at in range(PAGES):
            for size in (0, 1, 2, PAGES):
                expected = next((i for i in range(at, at + size) if pages[i]), None)
                assert ranges.first(at, size) == expected
    # Neighbours become one: a guest that converts page by page costs no more than one range.
    runs = sum(now and not before for before, now in zip([False, *pages], pages, strict=False))
    assert len(ranges) == runs
