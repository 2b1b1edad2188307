# SPDX-License-Identifier: MIT
"""A confidential guest runs on the hardware alone: an emulated host says so at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kvmharness import host_kinds, labels
from kvmharness.errors import MissingCapability
from kvmharness.kvm.vmtypes import VmType
from kvmharness.machine.machine import Machine


@pytest.fixture(params=[VmType.SNP, VmType.TDX, VmType.DEFAULT], ids=lambda kind: kind.label)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(os.dup(0), 4096, request.param) as made:
        yield made


def test_running_one_on_an_emulated_host(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(labels.HOST_VARIABLE, "emulated-snp")
    for run in (machine.run, machine.start):
        if machine.vm_type == VmType.DEFAULT:
            with pytest.raises(IndexError):  # it came to its vCPU, of which there is none
                run()
            continue
        with pytest.raises(MissingCapability, match="no confidential guest can run on it") as why:
            run()
        assert "this is an emulated-snp host" in str(why.value)


def test_elsewhere_it_is_for_the_kernel_to_say(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "current", lambda: labels.HostLabel(host_kinds.NATIVE, "7.3"))
    with pytest.raises(IndexError):
        machine.run()
