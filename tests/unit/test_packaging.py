# SPDX-License-Identifier: MIT
"""The packages that pyproject.toml lists by hand are the directories there are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kvmharness import resources

TOP = resources.checkout_dir()
pytestmark = pytest.mark.skipif(TOP is None, reason="not in a checkout")

#: Directories of tests/ that test the project itself and are of no use to who installs it.
OWN_TESTS = {"unit", "cli", "hosts"}


def listed() -> set[str]:
    assert TOP is not None
    setup = tomllib.loads((TOP / "pyproject.toml").read_text())
    return set(setup["tool"]["setuptools"]["packages"])


def directories(top: Path) -> set[str]:
    """Names of the directories directly below `top` that hold Python files git would take."""
    return {
        path.name
        for path in top.iterdir()
        if path.is_dir() and path.name != "__pycache__" and list(path.glob("*.py"))
    }


def test_every_package_of_the_tree_is_shipped() -> None:
    assert TOP is not None
    here = {f"kvmharness.{name}" for name in directories(TOP / "kvmharness")} | {"kvmharness"}
    shipped = {name for name in listed() if not name.startswith(("kvmharness._",))}
    assert shipped == here


def test_every_suite_of_the_tree_is_shipped() -> None:
    assert TOP is not None
    here = {f"kvmharness._suite.{name}" for name in directories(TOP / "tests") - OWN_TESTS}
    shipped = {name for name in listed() if name.startswith("kvmharness._suite.")}
    assert shipped == here
