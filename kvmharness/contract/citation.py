# SPDX-License-Identifier: MIT
"""Citations of the kernel's source, such as ``f, g, arch/x86/kvm/svm/sev.c of 6.12 and 7.3``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SOURCE_FILE = re.compile(r"[\w-]+(?:/[\w-]+)+\.[ch]\b")
_CITATION = re.compile(
    r"(?P<names>\w+(?:, \w+)*), (?P<path>[\w/-]+\.[ch])"
    r" of (?P<versions>[\d.]+(?:(?:, | and )[\d.]+)*)"
)


class BadCitation(ValueError):
    """A text that names a source file, but not what in it, or not of which kernel."""


@dataclass(frozen=True)
class Citation:
    """Functions (or variables, or macros) of one file, in the kernels that were read."""

    names: tuple[str, ...]
    path: str
    versions: tuple[str, ...]


def citation(text: str) -> Citation | None:
    """Return what `text` cites, None where it names no source file; BadCitation for half a one."""
    if match := _CITATION.fullmatch(text):
        versions = tuple(re.split(r", | and ", match["versions"]))
        return Citation(tuple(match["names"].split(", ")), match["path"], versions)
    if _SOURCE_FILE.search(text):
        raise BadCitation(f"{text!r} is not FUNCTION, FILE of VERSION")
    return None
