# SPDX-License-Identifier: MIT
"""docs/examples: one for each thing that a VMM does first, to be read at a glance and typed.

That they run is for tests/kvm/test_examples.py to say; that mypy finds no Any in them, for lint.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kvmharness import resources

TOP = resources.checkout_dir()
pytestmark = pytest.mark.skipif(TOP is None, reason="not in a checkout")

EXAMPLES = sorted((TOP or Path()).glob("docs/examples/*.py"))


def test_each_thing_has_its_example() -> None:
    """Those that print what their docstring says are run, and held to that."""
    run = {path.stem for path in EXAMPLES if "\nPrints:\n" in path.read_text(encoding="utf-8")}
    assert run >= {
        *("real_mode", "protected_mode", "long_mode", "irqfd", "ioeventfd", "msi"),
        *("snapshot", "dirty_ring", "two_vcpus", "by_hand"),
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_below_a_screen_and_escapes_no_check(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    for escape in (r"\bAny\b", "type: ignore", r"cast\(", "noqa"):
        assert not re.search(escape, text)


def test_mypy_is_told_to_find_any() -> None:
    assert TOP is not None
    mypy = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert mypy["strict"]
    assert "docs/examples" in mypy["files"]
    (override,) = [o for o in mypy["overrides"] if o["module"] == "docs.examples.*"]
    assert override["disallow_any_expr"]
