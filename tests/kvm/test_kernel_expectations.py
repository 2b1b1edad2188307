# SPDX-License-Identifier: MIT
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest

from .kernel_expectations import TABLE, check, parse_release, row_for, running_release


@dataclass
class Answer:
    errno_name: str


@pytest.mark.parametrize(
    ("text", "release"),
    [("7.3.4-1-amd64", (7, 3)), ("6.18.44", (6, 18)), ("7.4-rc1", (7, 4))],
)
def test_release_is_read_from_uname(text: str, release: tuple[int, int]) -> None:
    assert parse_release(text) == release


def test_what_is_no_release_is_refused() -> None:
    with pytest.raises(ValueError, match="not a kernel release"):
        parse_release("unknown")


@pytest.mark.parametrize("topic", TABLE)
def test_rows_are_in_order_and_each_changes_something(topic: str) -> None:
    rows = TABLE[topic]
    for earlier, later in pairwise(rows):
        assert earlier.since < later.since
        assert earlier.outcomes != later.outcomes


@pytest.mark.parametrize(
    ("release", "outcome"),
    [((6, 8), "EINVAL"), ((6, 18), "EINVAL"), ((7, 1), "EINVAL"), ((7, 2), "EEXIST")],
)
def test_the_newest_row_not_after_the_release_counts(
    release: tuple[int, int], outcome: str
) -> None:
    assert row_for("gmem.bind.overlap", release).outcomes == (outcome,)


def test_an_unknown_newer_kernel_is_held_to_the_newest_row() -> None:
    assert row_for("gmem.bind.overlap", (99, 0)).outcomes == ("EEXIST",)


def test_before_the_first_row_nothing_is_claimed() -> None:
    with pytest.raises(LookupError):
        row_for("gmem.bind.overlap", (6, 7))


def test_check_passes_and_fails_by_the_running_kernels_row() -> None:
    if running_release() < (6, 8):
        pytest.skip("the table begins with Linux 6.8, which brought guest_memfd")
    right = row_for("gmem.bind.overlap").outcomes[0]
    check("gmem.bind.overlap", Answer(right))
    with pytest.raises(AssertionError, match=f"answer {right}"):
        check("gmem.bind.overlap", Answer("EBADF"))
