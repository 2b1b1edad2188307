# SPDX-License-Identifier: MIT
"""Any buffer as the source of a launch, and a CPUID page that the firmware corrects."""

from __future__ import annotations

import array
import struct

import pytest

from kvmharness.kvm.fields import Buffer
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.sev import PageType
from kvmharness.launch.source import numbered_pages
from kvmharness.machine.machine import Machine
from kvmharness.measure.snp import LaunchDigest
from kvmharness.standins import snp as snp_standin

#: One function, leaf 0, with bits in EDX that no processor's has (SNP firmware ABI, 8.17.2.6).
WRONG = struct.pack("<I12xIIQQI", 1, 0, 0, 0, 0, 0xFFFF).ljust(PAGE_SIZE, b"\0")


@pytest.mark.scenario("snp.source.any_buffer")
@pytest.mark.requires_vm_type("snp")
def test_memory_comes_from_any_buffer(machine: Machine) -> None:
    pages = numbered_pages(2)
    digest = LaunchDigest()
    buffers: list[Buffer] = [
        pages,
        bytearray(pages),
        memoryview(pages),
        array.array("Q", pages),
    ]
    for index, buffer in enumerate(buffers):
        gpa = 2 * index * PAGE_SIZE
        result = machine.try_.snp.launch_update(
            gpa, 2 * PAGE_SIZE, source=buffer, type=PageType.NORMAL
        )
        assert result.ok
        assert result.written_back == (gpa + 2 * PAGE_SIZE, 2 * PAGE_SIZE, 0)
        for page in range(2):
            contents = pages[page * PAGE_SIZE :][:PAGE_SIZE]
            digest.update(PageType.NORMAL, gpa + page * PAGE_SIZE, contents)
    if snp_standin.present():
        assert snp_standin.launch_digest() == digest.hexdigest()


@pytest.mark.scenario("snp.cpuid.rejected_buffer")
@pytest.mark.requires_vm_type("snp")
def test_a_corrected_cpuid_page_comes_back_where_it_may(machine: Machine) -> None:
    constant, before = WRONG, bytes(bytearray(WRONG))
    update = machine.try_.snp.launch_update
    result = update(0, PAGE_SIZE, source=constant, type=PageType.CPUID)
    assert (result.errno_name, result.fw_error_name) == ("EIO", "INVALID_PARAM")
    assert constant == before

    page = bytearray(WRONG)
    assert not update(0, PAGE_SIZE, source=page, type=PageType.CPUID).ok
    assert page != WRONG
    assert update(0, PAGE_SIZE, source=page, type=PageType.CPUID).ok
