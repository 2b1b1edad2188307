# SPDX-License-Identifier: MIT
"""The example VMMs of docs/examples: each prints what its docstring says, against this KVM."""

from __future__ import annotations

import ast
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest

from kvmharness import resources


def promised(path: Path) -> str:
    """Return what follows "Prints:" in a docstring; an example that takes arguments has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(text.partition("\nPrints:\n")[2]).strip()


def examples() -> list[Any]:
    top = resources.checkout_dir()
    if top is None:
        reason = "the examples come with a checkout, not with an installed package"
        return [pytest.param(Path(), marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(path, id=path.stem, marks=pytest.mark.scenario(f"run.example.{path.stem}"))
        for path in sorted((top / "docs" / "examples").glob("*.py"))
        if promised(path)
    ]


@pytest.mark.parametrize("path", examples())
def test_an_example_prints_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip() == promised(path)
