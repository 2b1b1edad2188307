# SPDX-License-Identifier: MIT
"""A launch that has begun; and what every SNP test is held to on a host with the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.machine.builder import VmBuilder
from kvmharness.machine.machine import Machine
from kvmharness.standins import snp as standin

_PAGES = 16


@pytest.fixture(autouse=True)
def rmp_balance() -> Iterator[None]:
    """Fail the test after which the RMP holds more pages than before: the kernel leaked them.

    On hardware the RMP can't be read, and nothing is checked.
    """
    before = standin.rmp_counts()
    yield
    if before is None:
        return
    after = standin.wait_for_counts(before, seconds=3)
    assert after == before, f"the kernel left pages in the RMP: {before} before, {after} after"


@pytest.fixture
def machine(vm_builder: Callable[..., VmBuilder]) -> Iterator[Machine]:
    """A guest whose launch has been started, with a slot of 16 private pages from gpa 0."""
    with vm_builder("snp").guest_memfd(0, _PAGES * PAGE_SIZE).build() as machine:
        machine.set_private(0, _PAGES * PAGE_SIZE)
        machine.snp.launch_start()
        yield machine
