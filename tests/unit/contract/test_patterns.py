# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from kvmharness.contract.patterns import BadPattern, Patterns


@pytest.mark.parametrize(
    ("pattern", "meant", "not_meant"),
    [
        ("snp.source.null", ["snp.source.null"], ["snp.source.nulls", "xsnp.source.null"]),
        ("a.{b,c}.d*", ["a.b.d", "a.c.d_1"], ["a.e.d", "a.b.x"]),
        ("a.*", ["a.b", "a.b.c"], ["ab"]),
        ("a.?", ["a.b"], ["a.", "a.bc"]),
        ("a.b+c", ["a.b+c"], ["a.bbc"]),
    ],
)
def test_what_a_pattern_means(pattern: str, meant: list[str], not_meant: list[str]) -> None:
    patterns = Patterns((pattern,))
    assert [name for name in meant + not_meant if patterns.mean(name)] == meant


def test_excludes_take_away_from_all_the_others() -> None:
    patterns = Patterns(("a.*", "!a.x*", "b.y"))
    assert [name for name in ("a.b", "a.xy", "b.y", "b.z") if patterns.mean(name)] == ["a.b", "b.y"]


def test_a_pattern_that_matches_nothing_is_named_and_so_is_an_exclude() -> None:
    patterns = Patterns(("a.*", "b.*", "!a.x", "!a.y"))
    assert patterns.meaning_nothing(["a.b", "a.x"]) == ["b.*", "!a.y"]


@pytest.mark.parametrize("texts", [("a.{b",), ("a.b}",), ("a.{b,{c}}",), ("!a.b",), ()])
def test_what_means_nothing_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(BadPattern):
        Patterns(texts)
