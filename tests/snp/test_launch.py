# SPDX-License-Identifier: MIT
"""The launch as a VMM makes it, what the host says of itself, and SNP's relatives."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from kvmharness.kvm.cpuid import CpuidEntry
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.system import Kvm
from kvmharness.launch.psp import SevDevice
from kvmharness.launch.sev import (
    DEFAULT_POLICY,
    PageType,
    SnpPolicy,
    supported_policy_bits,
    supported_vmsa_features,
)
from kvmharness.launch.sev_structs import SnpLaunchFinish
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine


@pytest.fixture
def next_slot(machine: Machine) -> Iterator[int]:
    """A second slot of two private pages right behind the first; where the first ends, in bytes."""
    end = machine.slots[0].size
    with machine.create_guest_memfd(2 * PAGE_SIZE) as second:
        shared = machine.slots[0].mapping.address
        machine.set_user_memory_region2(
            1, end, 2 * PAGE_SIZE, shared, lib.KVM_MEM_GUEST_MEMFD, second
        )
        machine.set_private(end, 2 * PAGE_SIZE)
        yield end


@pytest.mark.scenario("snp.launch.whole")
@pytest.mark.requires_vm_type("snp")
def test_a_launch_from_start_to_finish(machine: Machine) -> None:
    with SourceBuffer.anonymous(4) as source:
        assert machine.snp.populate(0, 4 * PAGE_SIZE, source=source) == 1
        calls = machine.snp.populate(4 * PAGE_SIZE, 4 * PAGE_SIZE, source=None, type=PageType.ZERO)
        assert calls == 1
        machine.own(machine.create_vcpu(0))
        machine.snp.launch_finish(host_data=b"suite")


@pytest.mark.scenario("snp.launch.populate_goes_on")
@pytest.mark.requires_vm_type("snp")
def test_populate_goes_on_over_the_slots_end(machine: Machine, next_slot: int) -> None:
    with SourceBuffer.anonymous(4) as source:
        # One call stops at the slot's end; the loop takes the rest into the next slot.
        assert machine.snp.populate(next_slot - 2 * PAGE_SIZE, 4 * PAGE_SIZE, source=source) == 2


@pytest.mark.scenario("snp.launch.populate_many")
@pytest.mark.requires_vm_type("snp")
def test_many_parts_are_populated_in_one_go(machine: Machine) -> None:
    with SourceBuffer.anonymous(4, hole=(3, 1)) as source:
        parts = [
            (0, 2 * PAGE_SIZE, source, PageType.NORMAL),
            (4 * PAGE_SIZE, PAGE_SIZE, None, PageType.ZERO),
            (6 * PAGE_SIZE, PAGE_SIZE, source.address + PAGE_SIZE, PageType.UNMEASURED),
        ]
        assert machine.snp.populate_many(parts) == 3
        # The first is new; the second was populated before, and the third is not come to.
        again = [(2 * PAGE_SIZE, PAGE_SIZE, source, PageType.NORMAL), *parts]
        result = machine.snp.try_.populate_many(again)
        assert (result.errno_name, result.fw_error) == ("EIO", 0)
        assert result.written_back == (1, 0, source.address, 2 * PAGE_SIZE)
        machine.snp.launch_finish()


@pytest.mark.scenario("snp.launch.populate_many_goes_on")
@pytest.mark.requires_vm_type("snp")
def test_a_part_over_the_slots_end_takes_two_calls(machine: Machine, next_slot: int) -> None:
    with SourceBuffer.anonymous(4) as source:
        part = (next_slot - 2 * PAGE_SIZE, 4 * PAGE_SIZE, source, PageType.NORMAL)
        assert machine.snp.populate_many([part]) == 2


@pytest.mark.scenario("snp.launch.populate_raises")
@pytest.mark.requires_vm_type("snp")
def test_populate_raises_what_stopped_it(machine: Machine) -> None:
    with SourceBuffer.anonymous(4, hole=(2, 2)) as source:
        with pytest.raises(KvmError, match="KVM_SEV_SNP_LAUNCH_UPDATE failed: EIO") as caught:
            machine.snp.populate(0, 4 * PAGE_SIZE, source=source)
        assert caught.value.errno == errno.EIO
        assert caught.value.fw_error == 0
        # What was populated before the hole stays so.
        again = machine.try_.snp.launch_update(0, PAGE_SIZE, source=source, type=PageType.NORMAL)
        assert again.errno == errno.EIO


@pytest.mark.scenario("snp.host.vmsa_features")
@pytest.mark.requires_vm_type("snp")
def test_the_host_tells_which_vmsa_features_init2_takes(
    kvm: Kvm, vm_builder: Callable[..., VmBuilder]
) -> None:
    features = supported_vmsa_features(kvm).unwrap()
    for bit in range(64):
        with vm_builder("snp").uninitialized().build() as machine:
            result = machine.try_.snp.init2(vmsa_features=1 << bit)
            assert result.errno == (0 if features >> bit & 1 else errno.EINVAL), f"bit {bit}"


@pytest.mark.scenario("snp.host.policy_bits")
@pytest.mark.requires_vm_type("snp")
def test_the_host_tells_which_policy_bits_start_takes(
    kvm: Kvm, vm_builder: Callable[..., VmBuilder]
) -> None:
    offered = supported_policy_bits(kvm)
    if offered.errno == errno.ENXIO:
        pytest.skip("this kernel does not tell its policy bits (KVM_X86_SNP_POLICY_BITS)")
    bits = offered.unwrap()
    assert bits & DEFAULT_POLICY == DEFAULT_POLICY
    refused = [bit for bit in range(64) if not bits >> bit & 1]
    with vm_builder("snp").build() as machine:
        for bit in refused:
            result = machine.try_.snp.launch_start(DEFAULT_POLICY | 1 << bit)
            assert (result.errno_name, result.fw_error) == ("EINVAL", 0), f"bit {bit}"
        # Each refusal left nothing behind.
        assert machine.try_.snp.launch_start(DEFAULT_POLICY).ok


@pytest.mark.scenario("snp.host.policy_firmware")
@pytest.mark.requires_vm_type("snp")
def test_a_policy_the_firmware_refuses_is_named(vm_builder: Callable[..., VmBuilder]) -> None:
    # A guest that forbids SMT, on a machine that has it on (firmware ABI, 4.3).
    forbids_smt = SnpPolicy.RESERVED_MUST_BE_ONE
    with vm_builder("snp").build() as machine:
        result = machine.try_.snp.launch_start(forbids_smt)
        if result.ok:
            pytest.skip("SMT is off on this machine: a policy that forbids it is accepted")
        if (result.errno_name, result.fw_error) == ("EINVAL", 0):
            pytest.skip("this kernel refuses the policy itself: see snp.state.start_without_smt")
        assert (result.errno_name, result.fw_error_name) == ("EIO", "POLICY_FAILURE")
        with pytest.raises(KvmError, match="firmware error POLICY_FAILURE"):
            machine.snp.launch_start(forbids_smt)


@pytest.mark.scenario("snp.finish.id_block_unreadable")
@pytest.mark.requires_vm_type("snp")
def test_finish_with_an_id_block_that_cannot_be_read(machine: Machine) -> None:
    parameters = SnpLaunchFinish(id_block_en=1, id_block_uaddr=0x10)
    result = machine.try_.snp.command(lib.KVM_SEV_SNP_LAUNCH_FINISH, parameters)
    assert result.errno_name == "EFAULT"
    assert machine.try_.snp.launch_finish().ok


@pytest.mark.scenario("snp.host.sev_device")
@pytest.mark.requires_vm_type("snp")
def test_the_secure_processor_answers() -> None:
    with SevDevice.open() as device:
        status = device.try_.snp_platform_status()
        if status.errno == errno.ENODEV:
            pytest.skip("/dev/sev has no secure processor behind it, as on an emulated host")
        assert status.unwrap().api_major >= 1


@pytest.mark.scenario("snp.launch.sev_relatives")
@pytest.mark.parametrize(
    "vm_type",
    [
        pytest.param("sev", marks=pytest.mark.requires_vm_type("sev")),
        pytest.param("sev-es", marks=pytest.mark.requires_vm_type("sev-es")),
    ],
)
def test_sev_and_sev_es_vms_are_made_by_init2(
    vm_builder: Callable[..., VmBuilder], vm_type: str
) -> None:
    builder = vm_builder(vm_type).memory(0, 4 * PAGE_SIZE, "anonymous").vcpus(1)
    with builder.build() as machine:
        assert machine.try_.snp.init2().errno == errno.EINVAL  # once only
        assert len(machine.vcpus) == 1


@pytest.mark.scenario("snp.launch.cpuid")
@pytest.mark.parametrize(
    ("vm_type", "features"),
    [
        pytest.param("default", 0, marks=pytest.mark.requires_vm_type("sev")),
        pytest.param("sev", 0b10, marks=pytest.mark.requires_vm_type("sev")),
        pytest.param("sev-es", 0b1010, marks=pytest.mark.requires_vm_type("sev-es")),
        pytest.param("snp", 0b11010, marks=pytest.mark.requires_vm_type("snp")),
    ],
)
def test_a_guest_is_told_of_the_encryption_that_it_has(
    kvm: Kvm, vm_builder: Callable[..., VmBuilder], vm_type: str, features: int
) -> None:
    supported = kvm.get_supported_cpuid()
    (host,) = (entry for entry in supported if entry.function == 0x8000_001F)
    c_bit = host.ebx & 0x3F if features else 0
    builder = vm_builder(vm_type).memory(0, 4 * PAGE_SIZE, "anonymous").vcpus(2)
    with builder.build() as machine:
        for vcpu in machine.vcpus:
            leaves = {entry.function: entry for entry in vcpu.get_cpuid2()}
            assert leaves[1].ebx >> 24 == vcpu.id
            assert leaves[0x8000_001F] == CpuidEntry(0x8000_001F, eax=features, ebx=c_bit)
