# SPDX-License-Identifier: MIT
"""Every TDX scenario, held to what the contract says of the running kernel."""

from __future__ import annotations

import os
from typing import Any

import pytest

import kvmharness.populate.tdx_scenarios  # noqa: F401 (declares the scenarios)
from kvmharness.populate import contract
from kvmharness.populate.scenario import SCENARIOS, Scenario, observe
from kvmharness.system import Kvm
from kvmharness.vmtypes import VmType


def _parameters() -> list[Any]:
    parameters = []
    for scenario in SCENARIOS.values():
        if scenario.vm_type is VmType.TDX:
            marks = [pytest.mark.scenario(scenario.id), pytest.mark.requires_vm_type("tdx")]
            if scenario.destructive:
                marks.append(pytest.mark.destructive)
            parameters.append(pytest.param(scenario, id=scenario.id, marks=marks))
    return parameters


@pytest.mark.parametrize("scenario", _parameters())
def test_scenario(scenario: Scenario, kvm: Kvm, record: dict[str, Any]) -> None:
    outcome = observe(scenario, kvm)
    record["outcome"] = outcome.as_json()
    release = os.environ.get("KVMHARNESS_CONTRACT") or os.uname().release
    broken = contract.load().mismatch(outcome, release)
    assert not broken, broken
    if outcome.digest is not None and outcome.predicted_digest is not None:
        assert outcome.digest == outcome.predicted_digest
