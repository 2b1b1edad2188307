# SPDX-License-Identifier: MIT
"""A scenario held to its contract: kept, broken by the kernel, or other firmware."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest

from kvmharness import labels
from kvmharness.errors import NotTheKernel
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.labels import HostLabel
from kvmharness.scenarios import catalog
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.step import Call, Step
from kvmharness.suite import scenarios as held

#: A promise whose first step is the kernel's, and the second the firmware's.
SCENARIO = "snp.state.second_finish"
FINISH = "KVM_SEV_SNP_LAUNCH_FINISH"
KEPT: list[Step] = [
    Call("LAUNCH_FINISH", ioctl=FINISH),
    Call("LAUNCH_FINISH", errno.EIO, 1, "INVALID_GUEST_STATE", ioctl=FINISH),
]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A function that holds steps, seen on a host of a kind, to the contract of 7.3.4."""
    monkeypatch.setenv("KVMHARNESS_CONTRACT", "7.3.4")

    def judge(kind: str, *steps: Step) -> None:
        outcome = Outcome(SCENARIO, list(steps))
        monkeypatch.setattr(held, "observe", lambda scenario, kvm, allowed: outcome)
        monkeypatch.setattr(labels, "current", lambda: HostLabel(kind, "7.3.4"))
        scenario = catalog.scenarios(VmType.SNP)[SCENARIO]
        held.hold_to_contract(scenario, cast(Kvm, None), request)

    return judge


@pytest.mark.parametrize("kind", ["native", "emulated-snp"])
def test_what_keeps_the_contract_passes(hold: Any, kind: str) -> None:
    hold(kind, *KEPT)


def test_hardware_whose_firmware_says_otherwise_differs_from_emulation(hold: Any) -> None:
    other = Call("LAUNCH_FINISH", errno.EIO, 2, "INVALID_PARAM", ioctl=FINISH)
    with pytest.raises(NotTheKernel, match="differs from emulation") as caught:
        hold("native", KEPT[0], other)
    assert "* 2. LAUNCH_FINISH: EIO fw=INVALID_PARAM" in str(caught.value)
    assert "Please report it" in str(caught.value)


def test_the_same_on_an_emulated_host_is_a_failure(hold: Any) -> None:
    other = Call("LAUNCH_FINISH", errno.EIO, 2, "INVALID_PARAM", ioctl=FINISH)
    with pytest.raises(pytest.fail.Exception, match="breaks its contract"):
        hold("emulated-snp", KEPT[0], other)


def test_a_kernel_that_breaks_its_own_step_fails_on_hardware_too(hold: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="breaks its contract"):
        hold("native", Call("LAUNCH_FINISH", errno.EINVAL, ioctl=FINISH), KEPT[1])


def test_steps_that_call_something_else_than_the_contract_says_are_an_error(hold: Any) -> None:
    with pytest.raises(NotTheKernel, match="step 1 is KVM_RUN, the contract has KVM_SEV_SNP_L"):
        hold("emulated-snp", Call("LAUNCH_FINISH", ioctl="KVM_RUN"), KEPT[1])
