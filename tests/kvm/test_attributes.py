# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES on the VM, and that KVM_SET_MEMORY_ATTRIBUTES2 is there or is not.

Which answer is due follows from KVM_CAP_MEMORY_ATTRIBUTES: 0 on /dev/kvm is a kernel without them;
0 on the VM alone is a VM type without private memory (kvm_vm_ioctl_set_mem_attributes).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmharness import Kvm, MissingCapability, Vm, VmType
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.suite.promised import hold

PRIVATE = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
GPA = 1 << 32


@pytest.fixture
def any_vm(kvm: Kvm, vm_type: VmType) -> Iterator[Vm]:
    with kvm.create_vm(vm_type) as vm:
        yield vm


@pytest.fixture
def attributed(kvm: Kvm, any_vm: Vm) -> Vm:
    """A VM that has memory attributes."""
    if not kvm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        raise MissingCapability(
            "memory attributes", "KVM_CAP_MEMORY_ATTRIBUTES is 0 on /dev/kvm: this kernel has none"
        )
    if not any_vm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        raise MissingCapability(
            f"memory attributes on {VmType(any_vm.vm_type).label} VMs",
            "KVM_CAP_MEMORY_ATTRIBUTES is 0: VMs of this type have no private memory",
        )
    return any_vm


@pytest.mark.scenario("attr.many")
def test_many_ranges_are_set_in_one_go_up_to_the_first_that_is_refused(attributed: Vm) -> None:
    ranges = [(GPA + 2 * page * PAGE_SIZE, PAGE_SIZE, PRIVATE) for page in range(100)]
    assert attributed.set_memory_attributes_many(ranges) == 100
    ranges[70] = (GPA, PAGE_SIZE // 2, PRIVATE)
    result = attributed.try_.set_memory_attributes_many(ranges)
    assert (result.errno_name, result.written_back) == ("EINVAL", (70,))


@pytest.mark.scenario("attr.absent.kernel")
def test_a_kernel_without_them_refuses_the_ioctl(kvm: Kvm, any_vm: Vm) -> None:
    if kvm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        pytest.skip("this kernel has memory attributes")
    assert any_vm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES) == 0
    result = any_vm.try_.set_memory_attributes(GPA, PAGE_SIZE, PRIVATE)
    hold(result, "attr.default_vm.absent", 1)


@pytest.mark.scenario("attr.absent.vm")
def test_a_vm_type_without_private_memory_refuses_private(kvm: Kvm, any_vm: Vm) -> None:
    if not kvm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        pytest.skip("this kernel has no memory attributes at all (attr.absent.kernel)")
    if any_vm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES):
        pytest.skip("this VM type has private memory")
    assert any_vm.try_.set_memory_attributes(GPA, PAGE_SIZE, PRIVATE).errno_name == "EINVAL"
    assert any_vm.try_.set_memory_attributes(GPA, PAGE_SIZE, 0).errno_name == "ok"


@pytest.mark.scenario("attr.capability")
def test_the_vms_attributes_are_among_the_systems(kvm: Kvm, any_vm: Vm) -> None:
    of_vm = any_vm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES)
    assert not of_vm & ~kvm.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES)
    assert of_vm in (0, PRIVATE)


@pytest.mark.scenario("attr.set.round_trip")
def test_private_and_shared_and_again(attributed: Vm) -> None:
    for _ in range(2):
        for attributes in (PRIVATE, PRIVATE, 0, 0):
            result = attributed.try_.set_memory_attributes(GPA, 4 * PAGE_SIZE, attributes)
            assert result.errno_name == "ok"


@pytest.mark.scenario("attr.set.every_other_page")
def test_single_pages_of_a_large_range(attributed: Vm) -> None:
    attributed.set_private(GPA, 4 << 20)
    for page in range(0, 64, 2):
        attributed.set_shared(GPA + page * PAGE_SIZE, PAGE_SIZE)
    attributed.set_private(GPA, 4 << 20)
    attributed.set_shared(GPA, 4 << 20)


@pytest.mark.scenario("attr.set.without_slot")
def test_no_slot_is_needed(attributed: Vm) -> None:
    assert attributed.try_.set_memory_attributes(1 << 40, 1 << 21, PRIVATE).errno_name == "ok"


@pytest.mark.scenario("attr.refused.attribute")
def test_every_unknown_attribute_is_refused(attributed: Vm) -> None:
    known = attributed.check_extension(lib.KVM_CAP_MEMORY_ATTRIBUTES)
    wrong = {}
    for bit in range(64):
        if not known >> bit & 1:
            for attributes in (1 << bit, 1 << bit | PRIVATE):
                result = attributed.try_.set_memory_attributes(GPA, PAGE_SIZE, attributes)
                if result.errno_name != "EINVAL":
                    wrong[hex(attributes)] = str(result)
    assert not wrong


@pytest.mark.scenario("attr.refused.flags")
@pytest.mark.parametrize("flags", [1, 2, 1 << 63])
def test_flags_are_refused(attributed: Vm, flags: int) -> None:
    result = attributed.try_.set_memory_attributes(GPA, PAGE_SIZE, PRIVATE, flags)
    assert result.errno_name == "EINVAL"


@pytest.mark.scenario("attr.refused.range")
@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        (GPA, 0),
        (GPA + 1, PAGE_SIZE),
        (GPA + 512, PAGE_SIZE),
        (GPA, 1),
        (GPA, PAGE_SIZE + 1),
        (2**64 - PAGE_SIZE, 2 * PAGE_SIZE),
        (GPA, 2**64 - PAGE_SIZE),
    ],
)
def test_empty_unaligned_and_wrapping_ranges_are_refused(
    attributed: Vm, gpa: int, size: int
) -> None:
    assert attributed.try_.set_memory_attributes(gpa, size, PRIVATE).errno_name == "EINVAL"


@pytest.mark.scenario("attr.refused.bad_pointer")
def test_a_bad_pointer_is_efault(attributed: Vm) -> None:
    result = raw_ioctl(attributed, "KVM_SET_MEMORY_ATTRIBUTES", 0)
    assert result.errno_name == "EFAULT"


@pytest.mark.scenario("attr.wrong_fd")
def test_a_guest_memfd_does_not_take_the_vms_ioctl(typed_vm: Vm) -> None:
    with typed_vm.create_guest_memfd(PAGE_SIZE) as memfd:
        result = raw_ioctl(memfd, "KVM_SET_MEMORY_ATTRIBUTES", 0)
        assert result.errno_name == "ENOTTY"


@pytest.mark.scenario("attr.in_place.absent")
def test_without_in_place_conversion_the_file_has_no_attributes(typed_vm: Vm) -> None:
    """KVM_SET_MEMORY_ATTRIBUTES2 is queued for 7.4; the capability's number may be another's."""
    with typed_vm.create_guest_memfd(4 * PAGE_SIZE) as memfd:
        result = memfd.try_.set_memory_attributes2(0, PAGE_SIZE, PRIVATE)
        if result.errno_name != "ENOTTY":
            pytest.skip("this kernel converts guest_memfd in place")
        for attributes in (0, PRIVATE):
            again = memfd.try_.set_memory_attributes2(0, PAGE_SIZE, attributes)
            assert again.errno_name == "ENOTTY"
            assert again.written_back == (0,)
        assert raw_ioctl(memfd, "KVM_SET_MEMORY_ATTRIBUTES2", 0).errno_name == "ENOTTY"
