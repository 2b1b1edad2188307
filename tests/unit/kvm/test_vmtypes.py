# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.vmtypes import VmType


def test_the_numbers_are_the_kernels() -> None:
    assert {vm_type.name: int(vm_type) for vm_type in VmType} == {
        "DEFAULT": lib.KVM_X86_DEFAULT_VM,
        "SW_PROTECTED": lib.KVM_X86_SW_PROTECTED_VM,
        "SEV": lib.KVM_X86_SEV_VM,
        "SEV_ES": lib.KVM_X86_SEV_ES_VM,
        "SNP": lib.KVM_X86_SNP_VM,
        "TDX": lib.KVM_X86_TDX_VM,
    }


@pytest.mark.parametrize("vm_type", VmType)
def test_labels_and_names_are_parsed(vm_type: VmType) -> None:
    for name in (vm_type.label, vm_type.name, vm_type.label.upper(), vm_type):
        assert VmType.parse(name) is vm_type


def test_labels_are_those_of_the_command_line() -> None:
    labels = [vm_type.label for vm_type in VmType]
    assert labels == ["default", "sw-protected", "sev", "sev-es", "snp", "tdx"]


@pytest.mark.parametrize("name", ["", "sevsnp", "4", "default "])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown VM type .*: one of default \(0\), .*tdx \(5\)"):
        VmType.parse(name)


def test_a_number_is_a_type_or_named_as_none() -> None:
    number = 4
    assert VmType.parse(number) is VmType.SNP
    number = 99
    with pytest.raises(ValueError, match=r"unknown VM type 99: one of default \(0\), "):
        VmType.parse(number)
