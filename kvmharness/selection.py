# SPDX-License-Identifier: MIT
"""Which tests a person means: the ids of tests, and what matches them.

A test's id is its scenario's (``snp.source.unaligned``), or is made from where it stands:
``kvm/test_creation.py::test_zero_size`` is ``kvm.creation.zero_size``.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence


def default_id(nodeid: str) -> str:
    """Return the id of a test that names no scenario, from its node id."""
    path, *names = re.sub(r"\[.*", "", nodeid).split("::")
    parameters = nodeid[nodeid.index("[") :] if "[" in nodeid else ""
    parts = [part.removeprefix("test_") for part in path.removesuffix(".py").split("/")]
    parts += [name.removeprefix("test_").removeprefix("Test") for name in names]
    return ".".join(part for part in parts if part) + parameters


def topic(test_id: str) -> str:
    """Return an id without its last part: ``snp.source`` for ``snp.source.null``."""
    return re.sub(r"\[.*", "", test_id).rpartition(".")[0] or test_id


def matches(pattern: str, test_id: str, nodeid: str) -> bool:
    """Whether `pattern` means this test.

    It may be an id, the beginning of one up to a dot (``snp``, ``snp.source``), a glob of ids, a
    node id or the beginning of one up to a slash, ``::`` or bracket (``kvm/test_creation.py``).
    """
    if any(character in pattern for character in "*?"):
        return fnmatch.fnmatchcase(test_id, pattern) or fnmatch.fnmatchcase(nodeid, pattern)
    node_pattern = pattern.removeprefix("tests/").rstrip("/")
    return (
        pattern == test_id
        or test_id.startswith((f"{pattern}.", f"{pattern}["))
        or node_pattern == nodeid
        or nodeid.startswith((f"{node_pattern}/", f"{node_pattern}::", f"{node_pattern}["))
    )


def choose(patterns: Sequence[str], tests: Sequence[tuple[str, str]]) -> list[bool]:
    """Return for each of `tests` (id, node id) whether one of `patterns` means it.

    A pattern that means no test in the ways of matches() means those that contain it. LookupError,
    with what is close, for one that means none even then.
    """
    chosen = [False] * len(tests)
    for pattern in patterns:
        found = [
            i for i, (test_id, nodeid) in enumerate(tests) if matches(pattern, test_id, nodeid)
        ]
        found = found or [
            i
            for i, (test_id, nodeid) in enumerate(tests)
            if pattern in test_id or pattern in nodeid
        ]
        if not found:
            raise LookupError(_unknown(pattern, (test_id for test_id, _ in tests)))
        for index in found:
            chosen[index] = True
    return chosen


def _unknown(pattern: str, ids: Iterable[str]) -> str:
    ids = list(ids)
    known = sorted({topic(test_id) for test_id in ids} | {i.split(".")[0] for i in ids} | set(ids))
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    message = f"no test is called {pattern!r}"
    if close:
        return f"{message}; close to it: {', '.join(close)}"
    suites = sorted({test_id.split(".")[0] for test_id in ids})
    return f"{message}; there are: {', '.join(suites) or 'no tests at all'}"
