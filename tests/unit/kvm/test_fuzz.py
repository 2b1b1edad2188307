# SPDX-License-Identifier: MIT
"""The binding against any arguments, where no fd knows an ioctl of KVM's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...kvm.fuzzing import survives

pytest.importorskip("hypothesis")


def test_the_interpreter_survives_any_arguments(tmp_path: Path) -> None:
    fuzzed = survives("none", seconds=8, log=tmp_path / "last")
    assert 0 < fuzzed.returned < fuzzed.calls
    assert fuzzed.not_called == ""
