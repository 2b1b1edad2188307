# SPDX-License-Identifier: MIT
"""Scenarios as tests: one parametrized test each, held to the running kernel's contract."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from kvmharness import labels
from kvmharness.contract import files as contract
from kvmharness.errors import NotTheKernel
from kvmharness.kvm.vmtypes import VmType
from kvmharness.scenarios import catalog
from kvmharness.scenarios.engine import observe
from kvmharness.scenarios.scenario import Scenario
from kvmharness.suite.held import kept_keys
from kvmharness.suite.hooks import SESSION, WATCH
from kvmharness.suite.promised import contract_release

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


def parameters(vm_type: VmType) -> list[Any]:
    """Return what ``pytest.mark.parametrize("scenario", ...)`` takes for all of a VM type's."""
    found = []
    for scenario in catalog.scenarios(vm_type).values():
        marks = [pytest.mark.scenario(scenario.id), pytest.mark.requires_vm_type(vm_type.label)]
        if scenario.destructive:
            marks.append(pytest.mark.destructive)
        found.append(pytest.param(scenario, id=scenario.id, marks=marks))
    return found


def hold_to_contract(scenario: Scenario, kvm: Kvm, request: pytest.FixtureRequest) -> None:
    """Observe `scenario`, record the outcome, and fail the test if it breaks the contract.

    ``KVMHARNESS_CONTRACT`` names the release whose contract counts; by default the running one.
    The launch digest has to be what the scenario's steps make it, where both are known.
    NotTheKernel for hardware that differs from emulation in what the stand-ins do there, and for a
    contract that says wrongly what a step calls.
    """
    watch = request.node.stash[WATCH]
    outcome = observe(scenario, kvm, request.config.stash[SESSION].allowed_log)
    watch.details["outcome"] = outcome.as_json()
    if outcome.keys_left and watch.held is not None:
        watch.held += kept_keys(outcome.keys_left)
    # What the kernel said against itself, the contract judges, no less than the rest.
    said = [r"taint \w"] if outcome.log is None else map(re.escape, outcome.log)
    watch.expected_log += [rf"\A{text}\Z" for text in said]
    promises, release = contract.load(), contract_release()
    if not labels.current().emulated and (text := promises.beyond_emulation(outcome, release)):
        raise NotTheKernel(text)
    if broken := promises.mismatch(outcome, release):
        pytest.fail(broken, pytrace=False)
    if misnamed := promises.misnamed(outcome):
        raise NotTheKernel(misnamed)
    if None not in (outcome.digest, outcome.predicted_digest) and (
        outcome.digest != outcome.predicted_digest
    ):
        pytest.fail(
            f"{scenario.id}: the launch digest is {outcome.digest}, the pages that were "
            f"populated make {outcome.predicted_digest}",
            pytrace=False,
        )
    if outcome.lost:
        lines = [f"{scenario.id}: what KVM was given did not all reach the firmware", *outcome.lost]
        pytest.fail("\n  ".join(lines), pytrace=False)
