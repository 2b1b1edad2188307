# SPDX-License-Identifier: MIT
from __future__ import annotations

from itertools import pairwise

import pytest

from kvmharness.release import NotARelease, Release, names_a_series, parse_release, parse_series


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("7.3", Release(7, 3)),
        ("7.3.0", Release(7, 3)),
        ("7.3.4+deb13-amd64", Release(7, 3, 4)),
        ("6.18.44-fc-v669", Release(6, 18, 44)),
        ("7.4-rc1", Release(7, 4, candidate=1)),
        ("7.4.0-rc1+", Release(7, 4, candidate=1)),
        ("7.4~rc12-1~exp1", Release(7, 4, candidate=12)),
    ],
)
def test_releases_are_read_from_what_kernels_call_themselves(text: str, release: Release) -> None:
    assert parse_release(text) == release
    assert parse_series(text) == (release.major, release.minor)


def test_releases_are_in_the_order_they_were_made() -> None:
    order = ("6.18.44", "6.19", "7.0-rc1", "7.0-rc10", "7.0", "7.0.1", "7.1.3", "7.1.13")
    assert all(parse_release(one) < parse_release(two) for one, two in pairwise(order))


def test_what_is_no_release_is_refused() -> None:
    for text in ("unknown", "", "7"):
        with pytest.raises(NotARelease, match="is not a kernel version"):
            parse_release(text)


def test_a_series_alone_is_told_from_a_release() -> None:
    series = [text for text in ("7.1", "7.1.0", "7.1-rc2", "7.1.4-1", "x") if names_a_series(text)]
    assert series == ["7.1"]


def test_a_release_reads_as_people_write_it() -> None:
    texts = ("7.3", "7.3.4", "7.4-rc1")
    assert [str(parse_release(text)) for text in texts] == list(texts)
