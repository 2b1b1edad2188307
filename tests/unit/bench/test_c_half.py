# SPDX-License-Identifier: MIT
"""The C half compiles without a warning, and what stands in its way is said in a line."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from kvmharness.bench import c_half
from kvmharness.bench.c_half import NoCompiler
from kvmharness.errors import HarnessError


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    source = Path(c_half.__file__).with_suffix(".c")
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "c_half", source], check=True, timeout=120)


@pytest.mark.parametrize(
    ("compiler", "says"),
    [("no-such-cc", "no C compiler: no-such-cc is not there"), ("false", "can't compile")],
)
def test_without_a_compiler_that_works_it_says_so(
    monkeypatch: pytest.MonkeyPatch, compiler: str, says: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(NoCompiler, match=says), c_half.c_half(b""):
        pass


def test_a_half_that_ends_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\nfor out; do [ "$last" = -o ] && break; last=$out; done\n'
        'printf "#!/bin/sh\\nread line; exit 3\\n" > "$out"; chmod +x "$out"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = pytest.raises(HarnessError, match=r"operation 'x' \(status 3\)")
    with ended, c_half.c_half(b"") as turn:
        turn("x", 1, 0)
    assert [entry for entry in os.listdir(tmp_path) if entry != "cc"] == []
