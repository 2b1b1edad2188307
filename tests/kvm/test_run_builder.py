# SPDX-License-Identifier: MIT
"""The VM builder: what it builds, what it refuses, and that nothing is left of a failed build."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmharness import HarnessError, Kvm, KvmError, Machine, MissingCapability, VmBuilder, VmType
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine.builder import PAGE_TABLE_GPA
from kvmharness.machine.payload import PayloadError
from kvmharness.machine.slot import require_guest_memfd

NOT_DEFAULT = [vm_type for vm_type in VmType if vm_type is not VmType.DEFAULT]


@pytest.fixture
def builder(vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    return vm_builder().memory(0, 1 << 20, "anonymous")


@pytest.mark.scenario("run.builder.vm_type_missing")
@pytest.mark.parametrize("wanted", NOT_DEFAULT, ids=[wanted.label for wanted in NOT_DEFAULT])
def test_a_vm_type_the_host_lacks_is_missing_with_a_reason(
    kvm: Kvm, vm_builder: Callable[..., VmBuilder], wanted: VmType
) -> None:
    if wanted in kvm.vm_types():
        pytest.skip(f"this host offers {wanted.label}")
    with pytest.raises(MissingCapability) as missing:
        vm_builder(wanted.label).memory().build()
    assert missing.value.what == f"VM type {wanted.label}"
    assert len(missing.value.reason) > 20
    assert str(missing.value) == f"{missing.value.what}: {missing.value.reason}"
    with pytest.raises(MissingCapability):
        kvm.create_vm(wanted)
    # The returning form asks the kernel all the same.
    assert kvm.try_.create_vm(wanted).errno_name == "EINVAL"


@pytest.mark.scenario("run.builder.vm_type_unknown")
@pytest.mark.parametrize("number", [6, 31, 63, 1 << 20])
def test_an_unknown_vm_type_is_the_kernels_to_refuse(kvm: Kvm, number: int) -> None:
    assert kvm.try_.create_vm(number).errno_name == "EINVAL"
    with pytest.raises(KvmError, match="KVM_CREATE_VM failed: EINVAL"):
        kvm.create_vm(number)


@pytest.mark.scenario("run.builder.slots")
def test_slots_are_what_was_described(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").guest_memfd(1 << 30, 2 << 20)
    with builder.memory(2 << 30, 1 << 20, "memfd").build() as machine:
        described = [(slot.number, slot.gpa, slot.size, slot.backing) for slot in machine.slots]
        assert described == [
            (0, 0, 1 << 20, "anonymous"),
            (1, 1 << 30, 2 << 20, "guest_memfd"),
            (2, 2 << 30, 1 << 20, "memfd"),
        ]
        assert machine.slots[1].flags == lib.KVM_MEM_GUEST_MEMFD
        assert machine.slots[1].guest_memfd is not None
        assert machine.slots[0].guest_memfd is None
        assert machine.vcpus == []
        assert machine.page_table is None
        for slot in machine.slots:
            taken = machine.try_.set_user_memory_region(9, slot.gpa, PAGE_SIZE, 0)
            assert taken.errno_name == "EEXIST"


@pytest.mark.scenario("run.builder.slot_at")
def test_host_access_is_by_gpa_and_over_adjacent_slots(builder: VmBuilder) -> None:
    with builder.memory(1 << 20, 1 << 20, "anonymous").build() as machine:
        assert machine.slot_at(0).number == 0
        assert machine.slot_at((1 << 20) - 1).number == 0
        assert machine.slot_at(1 << 20, 1 << 20).number == 1
        machine.write((1 << 20) - 4, b"abcd")
        assert machine.read((1 << 20) - 4, 4) == b"abcd"
        machine.write((1 << 20) - 2, b"efgh")
        assert machine.read((1 << 20) - 4, 6) == b"abefgh"
        for gpa, size in ((2 << 20, 1), ((2 << 20) - 1, 2)):
            with pytest.raises(ValueError, match="no memslot holds"):
                machine.read(gpa, size)


@pytest.mark.scenario("run.builder.page_tables_move")
def test_page_tables_go_above_a_slot_in_their_place(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous")
    with builder.memory(PAGE_TABLE_GPA, 1 << 20, "anonymous").payload("hello").build() as machine:
        assert machine.page_table == PAGE_TABLE_GPA + (1 << 20)
        assert machine.run().status == 0


@pytest.mark.scenario("run.builder.again")
def test_a_builder_builds_as_often_as_asked(builder: VmBuilder) -> None:
    builder.payload("hello")
    with builder.build() as one, builder.build() as two:
        assert one.run().status == two.run().status == 0
        assert one.fileno() != two.fileno()


@pytest.mark.scenario("run.builder.before_vcpus")
def test_steps_come_between_memory_and_vcpus(builder: VmBuilder) -> None:
    seen: list[tuple[int, int]] = []

    def step(machine: Machine) -> None:
        seen.append((len(machine.slots), len(machine.vcpus)))

    with builder.before_vcpus(step).before_vcpus(step).vcpus(3).build() as machine:
        assert seen == [(1, 0), (1, 0)]
        assert [vcpu.id for vcpu in machine.vcpus] == [0, 1, 2]


@pytest.mark.scenario("run.builder.failed_build")
def test_a_failed_build_leaves_nothing_open(builder: VmBuilder) -> None:
    """The plugin's watch over fds and mappings makes a leak here a failure."""

    def fail(machine: Machine) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        builder.before_vcpus(fail).vcpus(2).build()


@pytest.mark.scenario("run.builder.overlap")
def test_overlapping_slots_are_the_kernels_to_refuse(builder: VmBuilder) -> None:
    with pytest.raises(KvmError) as refused:
        builder.memory(PAGE_SIZE, 1 << 20, "anonymous").build()
    assert refused.value.errno == 17  # EEXIST
    assert refused.value.result.name == "KVM_SET_USER_MEMORY_REGION"


@pytest.mark.scenario("run.builder.bad_payload")
def test_what_a_payload_does_not_take_is_said_before_anything_is_built(
    builder: VmBuilder,
) -> None:
    with pytest.raises(PayloadError, match="no payload named"):
        builder.payload("nonsense")
    with pytest.raises(PayloadError, match="needs start"):
        builder.payload("checksum")
    with pytest.raises(PayloadError, match="has no argument 'speed'"):
        builder.payload("hello", speed=1)
    with pytest.raises(HarnessError, match="does not run in real"):
        builder.payload("hello", "real")
    with pytest.raises(HarnessError, match="does not run in protected"):
        builder.payload("hello", "protected")
    with pytest.raises(ValueError, match="unreal"):
        builder.payload("hello", "unreal")


@pytest.mark.scenario("run.builder.enter_without_tables")
def test_long_mode_needs_page_tables(builder: VmBuilder) -> None:
    with builder.payload("hello16").build() as machine:
        assert machine.page_table is None
        with pytest.raises(HarnessError, match="needs page tables"):
            machine.enter("hello")


@pytest.mark.scenario("run.builder.payload_outside_memory")
def test_a_payload_needs_memory_where_it_goes(vm_builder: Callable[..., VmBuilder]) -> None:
    with pytest.raises(ValueError, match="no memslot holds"):
        vm_builder().memory(1 << 30, 1 << 20, "anonymous").payload("hello").build()


@pytest.mark.scenario("run.builder.unknown_flags")
@pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")
def test_guest_memfd_flags_the_vm_lacks_are_missing_with_a_reason(
    vm_builder: Callable[..., VmBuilder],
) -> None:
    with pytest.raises(MissingCapability, match=r"0x100.*KVM_CAP_GUEST_MEMFD_FLAGS is"):
        vm_builder().guest_memfd(0, 1 << 20, flags=0x100).build()


@pytest.mark.scenario("run.builder.require_guest_memfd")
@pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")
def test_the_requirement_agrees_with_creation(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        for flags in range(8):
            created = vm.try_.create_guest_memfd(PAGE_SIZE, flags)
            if created.value:
                created.value.close()
                require_guest_memfd(vm, flags)
            else:
                with pytest.raises(MissingCapability):
                    require_guest_memfd(vm, flags)


@pytest.mark.scenario("run.builder.cpuid")
def test_vcpus_have_the_supported_cpuid_and_msrs(kvm: Kvm, builder: VmBuilder) -> None:
    with builder.vcpus(1).build() as machine:
        vcpu = machine.vcpus[0]
        apic_base, lstar = 0x1B, 0xC000_0082
        assert lstar in kvm.get_msr_index_list()
        assert vcpu.get_msrs([apic_base])[apic_base] >> 12 == 0xFEE00
        assert vcpu.set_msrs({lstar: 0x1234_5678}) == 1
        assert vcpu.get_msrs([apic_base, lstar])[lstar] == 0x1234_5678
        # The kernel stops at the first it does not know: what is missing shows.
        assert vcpu.try_.get_msrs([apic_base, 0xDEAD_0000, apic_base]).ret == 1


@pytest.mark.scenario("run.builder.vcpu_ids")
def test_vcpu_ids_are_used_once(builder: VmBuilder, kvm: Kvm) -> None:
    with builder.vcpus(2).build() as machine:
        assert machine.try_.create_vcpu(1).errno_name == "EEXIST"
        most = kvm.check_extension(lib.KVM_CAP_MAX_VCPU_ID)
        assert machine.try_.create_vcpu(most).errno_name == "EINVAL"
