# SPDX-License-Identifier: MIT
"""Patches applied by patch(1), and what it says: where it had to guess, where it could not.

It is Debian's, run out of a directory in the cache: a machine may have none, and git's own apply
knows no fuzz.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvmharness import process
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.kernels import packages, toolroot
from kvmharness.kernels.patches import Patch

_DEADLINE = 60.0
_FILE = re.compile(r"(?:patching|checking) file '?(.+?)'?(?: \(.*\))?$")
_FUZZ = re.compile(r"Hunk #(\d+) succeeded at (\d+) with fuzz (\d+)")
_FAILED = re.compile(r"Hunk #(\d+) FAILED at (\d+)")
_OUT_OF = re.compile(r"\d+ out of (\d+) hunks?")
_REVERSED = "Reversed (or previously applied) patch detected"


class DoesNotApply(HarnessError):
    """A patch does not fit the source; the message says where, file by file."""


@dataclass(frozen=True)
class Applied:
    """A patch that applied. `fuzz`: the places that fitted only in part, a line each."""

    fuzz: tuple[str, ...] = ()


def apply(patch: Patch, directory: Path, release: str) -> Applied:
    """Apply what of `patch` is KVM's to the tree in `directory`, the source of kernel `release`.

    Raises DoesNotApply; the tree is then of no more use. MissingCapability where patch(1) can't be
    had.
    """
    if not patch.text:
        return Applied()
    for change in patch.applied:
        # patch(1) says so only of what it would write outside the directory it runs in.
        if any(part in ("", ".", "..") for path in change.paths for part in path.split("/")):
            raise DoesNotApply(f"{patch.title!r} names a file in an odd way: {change.path}")
    argv = [*_tool(), "--strip=1", "--batch", "--forward", "--no-backup-if-mismatch"]
    with tempfile.TemporaryFile() as diff:
        diff.write(patch.text.encode("utf-8", "surrogateescape"))
        diff.seek(0)
        try:
            done = process.run(
                [*argv, "--reject-file=-"],
                timeout=_DEADLINE,
                cwd=directory,
                stdin=diff,
                stderr=subprocess.STDOUT,
                env={"LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise DoesNotApply(f"patch(1) did not end in {_DEADLINE:.0f} s") from None
    fuzz, failed = parse_output(done.stdout)
    if done.returncode != 0:
        told = "; ".join(failed) or done.stdout.strip().splitlines()[-1]
        raise DoesNotApply(f"{patch.title!r} does not apply to {release}: {told}")
    return Applied(tuple(fuzz))


def _tool() -> list[str]:
    try:
        root = toolroot.tool_root("patch", ("patch",), packages.TOOLS_SUITE, keep=_needed)
    except packages.PackageUnavailable as failure:
        raise MissingCapability("applying patches", str(failure)) from failure
    return root.argv("usr/bin/patch")


def _needed(path: str) -> bool:
    return path.startswith(("usr/bin/patch", "usr/lib"))


def parse_output(said: str) -> tuple[list[str], list[str]]:
    """Return what patch(1) says of fuzz and of failures, a line for each hunk or file."""
    fuzz: list[str] = []
    failed: list[str] = []
    file = ""
    for line in said.splitlines():
        if match := _FILE.match(line):
            file = match[1]
        elif match := _FUZZ.match(line):
            fuzz.append(f"{file}: hunk {match[1]} fits at line {match[2]} with fuzz {match[3]}")
        elif match := _FAILED.match(line):
            failed.append(f"{file}: hunk {match[1]} does not fit near line {match[2]}")
        elif line.startswith(_REVERSED):
            failed.append(f"{file}: it is in this kernel already, or reversed")
        elif line.startswith("can't find file to patch"):
            file = ""
        elif not file and (match := re.match(r"\|\+\+\+ b/(\S+)", line)):
            failed.append(f"{match[1]}: this kernel has no such file")
    return fuzz, failed
