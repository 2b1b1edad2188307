# SPDX-License-Identifier: MIT
"""What the contract cites of the kernel's source is there, where the source is at hand.

``KVMHARNESS_LINUX_SOURCES`` names a directory with a subdirectory for each kernel's source, named
for its release (6.12.107). Of a series that is cited each release at hand has to have the name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kvmharness.contract import files
from kvmharness.contract.citation import BadCitation, Citation, citation

SOURCES = os.environ.get("KVMHARNESS_LINUX_SOURCES")


def test_a_citation_names_functions_a_file_and_kernels() -> None:
    assert citation("f, __g, arch/x86/kvm/a.c of 6.12.107, 6.18 and 7.3") == Citation(
        ("f", "__g"), "arch/x86/kvm/a.c", ("6.12.107", "6.18", "7.3")
    )
    assert citation("firmware ABI, 8.17.2") is None


@pytest.mark.parametrize(
    "text",
    ["virt/kvm/guest_memfd.c of 7.3", "f, mm/gup.c", "f, mm/gup.c of 7.3; g, mm/gup.c of 7.3"],
)
def test_half_a_citation_is_refused(text: str) -> None:
    with pytest.raises(BadCitation, match="is not FUNCTION, FILE of VERSION"):
        citation(text)


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def defines(text: str, name: str) -> bool:
    """Whether C source defines a function, variable or macro."""
    # A definition begins its line with the type, or with the name; what is called is indented.
    begins = r"^(?:[A-Za-z_][^;=\n]*\W)?"
    return bool(
        re.search(rf"{begins}{name}\(|^#define {name}\b|{begins}{name}(?:\[\])? = ", text, re.M)
    )


def test_a_definition_is_told_from_a_call() -> None:
    text = "static int f(int a)\n{\n\tg(a);\n}\n#define h(x) x\nstatic struct s v = {\n"
    assert [name for name in "fghv" if defines(text, name)] == ["f", "h", "v"]


def releases(version: str) -> list[str]:
    """Return the releases at hand that a cited version means: itself, or all of a series."""
    assert SOURCES is not None
    at_hand = sorted(os.listdir(SOURCES))
    return [each for each in at_hand if each == version or each.startswith(f"{version}.")]


def cited() -> Iterator[Citation]:
    for row in files.load().rows:
        for text in row.read:
            if found := citation(text):
                yield found


@pytest.mark.skipif(not SOURCES, reason="KVMHARNESS_LINUX_SOURCES names no kernel sources")
def test_everything_cited_is_in_the_source() -> None:
    assert SOURCES is not None
    missing = {
        f"{name}, {each.path} of {release}"
        for each in cited()
        for version in each.versions
        for release in releases(version)
        for name in each.names
        if not defines(read(Path(SOURCES, release, each.path)), name)
    }
    assert sorted(missing) == []


@pytest.mark.skipif(not SOURCES, reason="KVMHARNESS_LINUX_SOURCES names no kernel sources")
def test_the_sources_at_hand_are_of_kernels_that_are_cited() -> None:
    assert any(releases(version) for each in cited() for version in each.versions)
