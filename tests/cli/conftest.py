# SPDX-License-Identifier: MIT
"""A small suite that passes, fails, skips, crashes and hangs, for the command to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

MakeSuite = Callable[[str], Path]


@pytest.fixture
def make_suite(tmp_path: Path) -> MakeSuite:
    """Give a function that makes a suite of one file, kvm/test_it.py, with this source."""

    def make(source: str) -> Path:
        directory = tmp_path / "suite" / "kvm"
        directory.mkdir(parents=True, exist_ok=True)
        text = "import os, signal, time, pytest\n" + dedent(source)
        (directory / "test_it.py").write_text(text)
        return directory.parent

    return make
