# SPDX-License-Identifier: MIT
"""What plain tests are held to: the contract of the running kernel, or of one asked for."""

from __future__ import annotations

import errno
import os

import pytest

from kvmharness.kvm.result import Result
from kvmharness.suite.promised import contract_release, hold


def refused(number: int) -> Result[int]:
    return Result("KVM_SET_USER_MEMORY_REGION2", -1, number)


def test_the_running_kernel_counts_unless_another_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KVMHARNESS_CONTRACT", raising=False)
    assert contract_release() == os.uname().release
    monkeypatch.setenv("KVMHARNESS_CONTRACT", "7.1")
    assert contract_release() == "7.1"


@pytest.mark.parametrize(("release", "kept"), [("7.1.13", errno.EINVAL), ("7.2.0", errno.EEXIST)])
def test_a_call_is_held_to_one_step_of_a_promise(
    release: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMHARNESS_CONTRACT", release)
    hold(refused(kept), "gmem.bind.overlap", 2)
    other = {errno.EINVAL: errno.EEXIST, errno.EEXIST: errno.EINVAL}[kept]
    with pytest.raises(AssertionError, match=f"gmem.bind.overlap on {release} has E"):
        hold(refused(other), "gmem.bind.overlap", 2)


def test_a_broken_promise_says_where_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMHARNESS_CONTRACT", "7.1.4")
    with pytest.raises(AssertionError) as caught:
        hold(refused(0), "gmem.bind.overflow", 1, offset="0x1000")
    text = str(caught.value)
    assert "KVM_SET_USER_MEMORY_REGION2 gave ok, where" in text
    assert "because: offset and size are unsigned" in text
    assert "eba85fee7fc6" in text
    assert "offset: 0x1000" in text


def test_any_of_several_steps_may_be_what_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMHARNESS_CONTRACT", "6.8")
    hold(refused(errno.EINVAL), "gmem.fallocate.modes", 5, 6)
    hold(refused(errno.EOPNOTSUPP), "gmem.fallocate.modes", 5, 6)
    monkeypatch.setenv("KVMHARNESS_CONTRACT", "6.12")
    with pytest.raises(AssertionError):
        hold(refused(errno.EINVAL), "gmem.fallocate.modes", 5, 6)
