# SPDX-License-Identifier: MIT
"""NUMA policy on a guest_memfd mapping: mbind(2) and get_mempolicy(2).

From 6.19 on the policy belongs to the file (kvm_gmem_set_policy); before, to the mapping alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmharness import GuestMemfd, MissingCapability
from kvmharness.kvm.mapping import MPOL_BIND, MPOL_DEFAULT, MPOL_INTERLEAVE, PAGE_SIZE, Mapping
from kvmharness.release import running_series

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD_FLAGS", 3)

NODE_0 = 1
ABSENT_NODE = 1 << 60


def nodes() -> list[int]:
    """Return the numbers of the NUMA nodes with memory; none where the kernel knows no nodes."""
    text = Path("/sys/devices/system/node/has_memory")
    if not text.exists():
        return []
    found: list[int] = []
    for part in text.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.fixture
def mapping(shared: GuestMemfd) -> Iterator[Mapping]:
    if 0 not in nodes():
        raise MissingCapability("NUMA policy", "this kernel is built without CONFIG_NUMA")
    with shared.mmap() as mapped:
        yield mapped


@pytest.mark.scenario("gmem.numa.default")
def test_there_is_no_policy_at_first(mapping: Mapping) -> None:
    assert mapping.memory_policy() == (MPOL_DEFAULT, 0)


@pytest.mark.scenario("gmem.numa.set")
def test_policies_are_set_for_the_pages_named(mapping: Mapping) -> None:
    half = 2 * PAGE_SIZE
    assert mapping.try_mbind(MPOL_INTERLEAVE, NODE_0, 0, 0, half).ok
    assert mapping.try_mbind(MPOL_BIND, NODE_0, 0, half, half).ok
    assert mapping.memory_policy(0) == (MPOL_INTERLEAVE, NODE_0)
    assert mapping.memory_policy(half) == (MPOL_BIND, NODE_0)
    assert mapping.try_mbind(MPOL_DEFAULT, 0).ok
    assert mapping.memory_policy(0) == (MPOL_DEFAULT, 0)
    assert mapping.memory_policy(half) == (MPOL_DEFAULT, 0)


@pytest.mark.scenario("gmem.numa.refused")
@pytest.mark.parametrize(
    ("mode", "mask"),
    [(999, NODE_0), (MPOL_BIND, 0), (MPOL_INTERLEAVE, 0), (MPOL_BIND, ABSENT_NODE)],
    ids=["mode", "bind-none", "interleave-none", "absent-node"],
)
def test_impossible_policies_are_refused(mapping: Mapping, mode: int, mask: int) -> None:
    assert mapping.try_mbind(mode, mask).errno_name == "EINVAL"
    assert mapping.memory_policy() == (MPOL_DEFAULT, 0)


@pytest.mark.scenario("gmem.numa.contents")
def test_a_policy_changes_no_contents(shared: GuestMemfd, mapping: Mapping) -> None:
    mapping.fill(0, shared.size, 0x42)
    assert mapping.try_mbind(MPOL_BIND, NODE_0).ok
    assert mapping.read() == b"\x42" * shared.size
    shared.punch_hole(0, PAGE_SIZE)
    assert mapping.read(0, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert mapping.node_of(0) == 0


@pytest.mark.scenario("gmem.numa.of_the_file")
def test_whether_another_mapping_sees_the_policy(shared: GuestMemfd, mapping: Mapping) -> None:
    assert mapping.try_mbind(MPOL_BIND, NODE_0).ok
    with shared.mmap() as other:
        seen = other.memory_policy()
    if running_series() >= (6, 19):  # kvm_gmem_set_policy: the file's
        assert seen == (MPOL_BIND, NODE_0)
    else:  # vm_ops without set_policy: the mapping's
        assert seen == (MPOL_DEFAULT, 0)


@pytest.mark.scenario("gmem.numa.placement")
def test_pages_come_from_the_nodes_chosen(shared: GuestMemfd, mapping: Mapping) -> None:
    available = nodes()
    if len(available) < 2:
        pytest.skip(f"placement shows with two NUMA nodes; this machine has {len(available)}")
    if running_series() < (6, 19):
        pytest.skip("guest_memfd follows mbind() from Linux 6.19 on")
    first, second = available[:2]

    def place(front: int, back: int) -> None:
        assert mapping.try_mbind(MPOL_BIND, 1 << front, 0, 0, 2 * PAGE_SIZE).ok
        assert mapping.try_mbind(MPOL_BIND, 1 << back, 0, 2 * PAGE_SIZE, 2 * PAGE_SIZE).ok
        mapping.fill(0, shared.size, 0xAA)
        assert [mapping.node_of(page * PAGE_SIZE) for page in range(4)] == [front] * 2 + [back] * 2

    # A policy set after the page is there counts once the page is given back.
    mapping.fill(0, PAGE_SIZE, 0xAA)
    assert mapping.try_mbind(MPOL_BIND, 1 << first, 0, 0, PAGE_SIZE).ok
    shared.punch_hole(0, PAGE_SIZE)
    place(second, first)
    shared.punch_hole(0, shared.size)
    place(first, second)
