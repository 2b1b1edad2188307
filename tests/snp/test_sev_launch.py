# SPDX-License-Identifier: MIT
"""The launch of SEV and SEV-ES guests: all of it on hardware, what KVM itself says anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness import Machine, VmBuilder, VmType
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.psp import BLOB_MAX_SIZE
from kvmharness.launch.sev_es import SevPolicy, SevState

TYPES = pytest.mark.parametrize(
    "vm_type",
    [
        pytest.param("sev", marks=pytest.mark.requires_vm_type("sev")),
        pytest.param("sev-es", marks=pytest.mark.requires_vm_type("sev-es")),
    ],
)
MEMORY = 4 * PAGE_SIZE


def built(vm_builder: Callable[..., VmBuilder], vm_type: str) -> Machine:
    return vm_builder(vm_type).memory(0, MEMORY, "anonymous").vcpus(1).build()


@pytest.mark.scenario("sev.launch.whole")
@pytest.mark.expects_log("snp_standin: command 0x30 is not modelled")
@TYPES
def test_a_launch_from_start_to_finish(vm_builder: Callable[..., VmBuilder], vm_type: str) -> None:
    es = vm_type == "sev-es"
    with built(vm_builder, vm_type) as machine:
        sev, memory = machine.sev, machine.slots[0].mapping
        started = sev.try_.launch_start(SevPolicy.NO_DEBUG | (SevPolicy.ES if es else 0))
        if started.fw_error == lib.SEV_RET_INVALID_COMMAND:
            pytest.skip("the stand-in of an emulated host launches SNP guests only")
        handle = started.unwrap()
        assert handle > 0
        assert sev.guest_status().state == SevState.LAUNCH_UPDATE
        clear = b"in the clear".ljust(MEMORY, b".")
        memory.write(0, clear)
        machine.memory_encrypt_region(memory.address, MEMORY)
        sev.launch_update_data(memory, MEMORY)
        assert memory.read() != clear
        if es:
            sev.launch_update_vmsa()
        assert len(sev.measure()) == 48  # a SHA-256 and a nonce
        assert sev.guest_status().state == SevState.LAUNCH_SECRET
        sev.launch_finish()
        assert sev.guest_status().state == SevState.RUNNING
        assert sev.guest_status().handle == handle
        assert not sev.try_.dbg_decrypt(memory, PAGE_SIZE).ok  # the policy forbids it
        machine.memory_encrypt_region(memory.address, MEMORY, register=False)


@pytest.mark.scenario("sev.launch.refused_by_kvm")
@pytest.mark.expects_log("SEV: Failure locking 1 pages")
@TYPES
def test_what_kvm_refuses_before_the_firmware_is_asked(
    vm_builder: Callable[..., VmBuilder], vm_type: str
) -> None:
    with built(vm_builder, vm_type) as machine:
        sev = machine.try_.sev
        for result in (
            sev.launch_measure(BLOB_MAX_SIZE + 1),
            sev.attestation_report(size=BLOB_MAX_SIZE + 1),
        ):
            assert (result.errno_name, result.fw_error) == ("EINVAL", 0)
        if machine.vm_type == VmType.SEV:
            assert sev.launch_update_vmsa().errno_name == "ENOTTY"
        assert sev.init().errno_name == "EINVAL"  # it is one already
        assert not sev.dbg_decrypt(0x10, PAGE_SIZE).ok


@pytest.mark.scenario("sev.launch.other_types")
@pytest.mark.requires_vm_type("snp")
def test_an_snp_vm_takes_none_of_it(vm_builder: Callable[..., VmBuilder]) -> None:
    with vm_builder("snp").memory(0, MEMORY, "anonymous").build() as machine:
        sev = machine.try_.sev
        for result in (sev.launch_start(), sev.launch_finish(), sev.guest_status()):
            assert result.errno_name == "EPERM"
