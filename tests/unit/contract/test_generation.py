# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from kvmharness.contract.generation import BadGeneration, Change, Generation, meant
from kvmharness.release import NotARelease, parse_release


def change(*texts: str) -> Change:
    return Change.parse(texts)


def having(change: Change, *releases: str) -> list[str]:
    return [text for text in releases if change.is_in(parse_release(text))]


def test_a_series_has_it_from_its_first_candidate_on() -> None:
    releases = ("6.19.11", "7.0-rc1", "7.0", "7.0.1", "7.1.4-1-amd64")
    assert having(change("7.0"), *releases) == list(releases[1:])


def test_a_candidate_has_it_and_those_before_do_not() -> None:
    assert having(change("7.3-rc5"), "7.3-rc4", "7.3-rc5", "7.3.0") == ["7.3-rc5", "7.3.0"]


def test_point_releases_have_it_in_their_own_series_alone() -> None:
    backported = change("7.2", "7.1.4", "6.12.117")
    releases = ("6.12.116", "6.12.117", "6.18.200", "7.0.99", "7.1.3", "7.1.4", "7.2.0")
    assert having(backported, *releases) == ["6.12.117", "7.1.4", "7.2.0"]


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["7.1.4"], "begin with the one of mainline"),
        (["7.2", "7.1"], "7.1 is no point release"),
        (["7.2", "7.3.1"], "being newer"),
    ],
)
def test_releases_that_make_no_sense_are_refused(texts: list[str], complaint: str) -> None:
    with pytest.raises(BadGeneration, match=complaint):
        Change.parse(texts)
    with pytest.raises(NotARelease):
        Change.parse("new")


def test_a_generation_ends_before_the_change_that_ends_it() -> None:
    generation = Generation(change("7.0"), change("7.2", "7.1.4"))
    releases = ("6.19.11", "7.0.1", "7.1.3", "7.1.4", "7.2.0")
    held = [text for text in releases if generation.holds(parse_release(text))]
    assert held == ["7.0.1", "7.1.3"]


def test_a_generation_without_kernels_is_refused() -> None:
    with pytest.raises(BadGeneration, match="no kernel"):
        Generation(change("7.2"), change("7.0"))


def test_generations_that_share_a_kernel_overlap() -> None:
    fixed, broken = (change("7.2", "7.1.4"), change("7.2", "7.1.4"))
    assert not Generation(fixed, None).overlaps(Generation(None, broken))
    assert Generation(fixed, None).overlaps(Generation(None, change("7.2")))  # both are 7.1.4's
    assert Generation(change("7.0"), None).overlaps(Generation(change("7.2"), None))
    # 6.12.110 is of neither, which is no overlap.
    late, early = change("7.2", "6.12.117"), change("7.2", "6.12.108")
    assert not Generation(late, None).overlaps(Generation(None, early))
    assert Generation(early, None).overlaps(Generation(None, late))


def test_a_series_means_a_release_of_each_generation_it_has() -> None:
    generations = [Generation(change("7.2", "7.1.4", "6.12.117"), None)]
    assert [str(each) for each in meant(generations, "7.1")] == ["7.1", "7.1.4"]
    assert [str(each) for each in meant(generations, "7.1.3")] == ["7.1.3"]
    assert [str(each) for each in meant(generations, "7.2-rc1")] == ["7.2-rc1"]


@pytest.mark.parametrize(
    ("first", "end", "words"),
    [
        ("", "", "every kernel"),
        ("7.0", "", "from 7.0"),
        ("", "6.19", "before 6.19"),
        ("7.0", "7.2 7.1.4", "from 7.0, before 7.2 (7.1.4)"),
        ("7.3-rc5", "", "from 7.3-rc5"),
    ],
)
def test_a_generation_in_words(first: str, end: str, words: str) -> None:
    ends = (change(*text.split()) if text else None for text in (first, end))
    assert str(Generation(*ends)) == words
