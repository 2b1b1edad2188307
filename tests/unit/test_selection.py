# SPDX-License-Identifier: MIT
"""What SELECT means: ids, beginnings, globs, node ids, parts; and what it says when it is wrong."""

from __future__ import annotations

import pytest

from kvmharness.selection import choose, default_id, topic

TESTS = [
    ("gmem.punch.all", "kvm/test_punch.py::test_all"),
    ("gmem.punch.none", "kvm/test_punch.py::test_none"),
    ("gmem.punched", "kvm/test_other.py::test_punched"),
    ("snp.source.null", "snp/test_scenarios.py::test_scenario[snp.source.null]"),
    ("snp.source.aligned[1]", "snp/test_more.py::test_aligned[1]"),
    ("snp.source.aligned[2]", "snp/test_more.py::test_aligned[2]"),
    ("kvm.creation.zero", "kvm/test_creation.py::test_zero"),
]


def chosen(*patterns: str) -> list[str]:
    return [
        test_id for (test_id, _), kept in zip(TESTS, choose(patterns, TESTS), strict=True) if kept
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("gmem.punch.all", ["gmem.punch.all"]),
        ("gmem.punch", ["gmem.punch.all", "gmem.punch.none"]),
        ("snp", ["snp.source.null", "snp.source.aligned[1]", "snp.source.aligned[2]"]),
        ("snp.source.aligned", ["snp.source.aligned[1]", "snp.source.aligned[2]"]),
        ("snp.source.aligned[2]", ["snp.source.aligned[2]"]),
        ("*.punch*", ["gmem.punch.all", "gmem.punch.none", "gmem.punched"]),
        ("snp.source.n*", ["snp.source.null"]),
        ("kvm", ["gmem.punch.all", "gmem.punch.none", "gmem.punched", "kvm.creation.zero"]),
        ("kvm/test_punch.py", ["gmem.punch.all", "gmem.punch.none"]),
        ("tests/kvm/test_punch.py::test_none", ["gmem.punch.none"]),
        ("snp/test_more.py::test_aligned", ["snp.source.aligned[1]", "snp.source.aligned[2]"]),
        # Nothing has it as an id or a beginning: then any part will do.
        ("null", ["snp.source.null"]),
        ("punched", ["gmem.punched"]),
    ],
)
def test_a_pattern_means(pattern: str, expected: list[str]) -> None:
    assert chosen(pattern) == expected


def test_several_patterns_add_up() -> None:
    assert chosen("gmem.punched", "null") == ["gmem.punched", "snp.source.null"]


def test_an_unknown_pattern_is_told_with_what_is_close() -> None:
    with pytest.raises(LookupError, match=r"'snp\.sorce'; close to it: .*snp\.source"):
        choose(["snp.sorce"], TESTS)


def test_an_unknown_pattern_with_nothing_close_is_told_the_suites() -> None:
    with pytest.raises(LookupError, match="'qqqq'; there are: gmem, kvm, snp"):
        choose(["kvm", "qqqq"], TESTS)


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("kvm/test_creation.py::test_zero_size", "kvm.creation.zero_size"),
        ("kvm/test_creation.py::test_size[0-a/b::c.d]", "kvm.creation.size[0-a/b::c.d]"),
        ("kvm/test_creation.py::TestSizes::test_zero", "kvm.creation.Sizes.zero"),
    ],
)
def test_an_id_is_made_from_the_node_id(nodeid: str, expected: str) -> None:
    assert default_id(nodeid) == expected


@pytest.mark.parametrize(
    ("test_id", "expected"),
    [("snp.source.null", "snp.source"), ("kvm.a.size[0.5]", "kvm.a"), ("alone", "alone")],
)
def test_topic(test_id: str, expected: str) -> None:
    assert topic(test_id) == expected
