# SPDX-License-Identifier: MIT
"""Every scenario on default VMs, held to what the contract says of the running kernel."""

from __future__ import annotations

from typing import Any

import pytest

from kvmharness.populate.scenario import Scenario
from kvmharness.pytest_scenarios import hold_to_contract, parameters
from kvmharness.system import Kvm
from kvmharness.vmtypes import VmType


@pytest.mark.parametrize("scenario", parameters(VmType.DEFAULT))
def test_scenario(scenario: Scenario, kvm: Kvm, record: dict[str, Any]) -> None:
    hold_to_contract(scenario, kvm, record)
