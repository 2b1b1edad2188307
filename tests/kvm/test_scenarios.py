# SPDX-License-Identifier: MIT
"""Every scenario on default VMs, held to what the contract says of the running kernel."""

from __future__ import annotations

import pytest

from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios.scenario import Scenario
from kvmharness.suite.scenarios import hold_to_contract, parameters


@pytest.mark.parametrize("scenario", parameters(VmType.DEFAULT))
def test_scenario(scenario: Scenario, kvm: Kvm, request: pytest.FixtureRequest) -> None:
    hold_to_contract(scenario, kvm, request)
