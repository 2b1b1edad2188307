# SPDX-License-Identifier: MIT
"""Why a call fails, as the contract has it."""

from __future__ import annotations

from kvmharness.contract.causes import causes, errnos, ioctls
from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import Calls, Contract

from .samples import SCENARIO, row

OLD = row("ok", "EIO fw=INVALID_PARAM", "= same", end="7.0")
NEW = row("EINVAL", "some ok, some EIO", "= same", first="7.0")
CONTRACT = Contract(
    [OLD, NEW], [Calls(Patterns((SCENARIO,)), ("KVM_RUN", "KVM_GET_REGS", "= an answer"))]
)


def found(ioctl: str | None, errno: str, kernel: str | None) -> list[list[str]]:
    return [cause.words for cause in causes(CONTRACT, [SCENARIO], ioctl, errno, kernel)]


def test_an_errno_is_looked_up_in_the_steps_of_one_ioctl() -> None:
    assert found("KVM_GET_REGS", "EIO", "6.12") == [["EIO fw=INVALID_PARAM"]]
    assert found("KVM_RUN", "EIO", "6.12") == []
    assert found("KVM_RUN", "EINVAL", "6.12") == []
    assert found("KVM_RUN", "EINVAL", "7.3") == [["EINVAL"]]


def test_without_a_kernel_it_is_any_kernels_and_without_an_ioctl_any_calls() -> None:
    assert found("KVM_GET_REGS", "EIO", None) == [["EIO fw=INVALID_PARAM"], ["some ok, some EIO"]]
    assert found(None, "EINVAL", None) == [["EINVAL"]]


def test_a_cause_knows_the_steps_and_the_firmwares_codes() -> None:
    (cause,) = causes(CONTRACT, [SCENARIO], None, "EIO", "6.12")
    assert [number for number, _ in cause.steps[SCENARIO]] == [2]
    assert cause.firmware == ["INVALID_PARAM"]


def test_calls_and_errnos_that_are_known_are_listed() -> None:
    assert ioctls(CONTRACT, [SCENARIO]) == ["KVM_GET_REGS", "KVM_RUN"]
    assert errnos(CONTRACT, [SCENARIO], None) == ["EINVAL", "EIO"]
    assert errnos(CONTRACT, [SCENARIO], "KVM_RUN") == ["EINVAL"]
