# SPDX-License-Identifier: MIT
"""How a kernel is named: ``7.3``, ``7.3+series.mbox``, ``7.3:sw-protected``, ``~/linux``.

    BASE[+PATCHES]...[:VARIANT]

BASE is a series (6.12: the newest point release of it), a release, or ``newest``; or a path: what
has a slash in it or is a directory is a kernel build tree, or a bzImage. PATCHES are applied to the
source that the kernel was packaged from: a file or directory, or whatever else series.py reads.
VARIANT is a configuration that differs from the packaged one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvmharness.errors import UsageError

#: The newest series that the archive has.
NEWEST = "newest"
#: What can stand behind the colon, and what it is.
VARIANTS: Mapping[str, str] = {
    "sw-protected": "KVM's modules rebuilt with CONFIG_KVM_SW_PROTECTED_VM",
    "plain": "a whole kernel with every kind of VM (kvmharness kernel build)",
    "debug": "the same, with lockdep, KASAN, UBSAN and KVM's own assertions",
}
# A release may have a + of its own (7.3.4+deb13-amd64), so patches begin behind the whole of one.
_BASE = re.compile(
    r"newest|\d+\.\d+(?:\.\d+)?(?:[~-]rc\d+)?(?:[+~-](?:deb|bpo|dfsg)[a-z0-9.]*|-\d+)*(?:-amd64)?"
)


@dataclass(frozen=True)
class Spec:
    """A kernel as it was asked for."""

    base: str  # a series, a release, newest, or the path of a tree
    patches: tuple[str, ...] = ()  # as written
    variant: str = ""
    is_tree: bool = False

    def __str__(self) -> str:
        variant = f":{self.variant}" if self.variant else ""
        return "+".join((self.base, *self.patches)) + variant


def parse(wanted: str) -> Spec:
    """Return what `wanted` names; UsageError, in one line, for what can name no kernel."""
    if is_tree(wanted):
        base, variant = _tree_and_variant(wanted)
        if not Path(base).expanduser().exists():
            raise UsageError(f"kernel {wanted}: no such file or directory")
        return Spec(base, variant=variant, is_tree=True)
    match = _BASE.match(wanted)
    rest = wanted[match.end() :] if match else ""
    if match is None or rest[:1] not in ("", "+", ":"):
        raise UsageError(
            f"kernel {wanted!r}: give a series (6.12), newest, or the path of a kernel build tree"
        )
    patches = _split(rest)
    variant = ""
    last = patches.pop()
    if ":" in last and not (last and Path(last).expanduser().exists()):
        last, _, variant = last.rpartition(":")
        variant = _known(variant, wanted)
    patches.append(last)
    if patches[0] or "" in patches[1:]:
        raise UsageError(f"kernel {wanted}: there is no patch behind a +")
    return Spec(match[0], tuple(patches[1:]), variant)


def is_tree(wanted: str) -> bool:
    """Whether `wanted` is a path and not a series."""
    if not wanted or Path(wanted).is_dir():
        return bool(wanted)
    match = _BASE.match(wanted)
    if match and wanted[match.end() : match.end() + 1] == "+":
        return False  # the slash is in the path of patches
    return "/" in wanted or wanted.startswith("~")


def _tree_and_variant(wanted: str) -> tuple[str, str]:
    """Take a variant off the path of a tree, unless there is a directory of the whole name."""
    if Path(wanted).expanduser().is_dir() or ":" not in wanted.rpartition("/")[2]:
        return wanted, ""
    base, _, variant = wanted.rpartition(":")
    return base, _known(variant, wanted)


def _known(variant: str, wanted: str) -> str:
    if variant not in VARIANTS:
        raise UsageError(
            f"kernel {wanted}: no variant {variant!r}; there are: {', '.join(VARIANTS)}"
        )
    return variant


def _split(rest: str) -> list[str]:
    """Split ``+A+B`` at each +, but for one in the name of a file that is there."""
    patches: list[str] = []
    pieces = rest.split("+")
    while pieces:
        lengths = range(len(pieces), 1, -1)
        there = (n for n in lengths if Path("+".join(pieces[:n])).expanduser().exists())
        taken = next(there, 1)
        patches.append("+".join(pieces[:taken]))
        pieces = pieces[taken:]
    return patches
