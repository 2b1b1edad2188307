# SPDX-License-Identifier: MIT
"""The binding against any arguments, on a real /dev/kvm: binding_fuzz.py has the calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fuzzing import survives

pytest.importorskip("hypothesis")


@pytest.mark.scenario("kvm.binding.any_arguments")
@pytest.mark.requires_vm_type("default")
def test_the_interpreter_survives_any_arguments(tmp_path: Path) -> None:
    fuzzed = survives("kvm", seconds=10, log=tmp_path / "last")
    assert 0 < fuzzed.returned < fuzzed.calls
    assert fuzzed.not_called == ""
