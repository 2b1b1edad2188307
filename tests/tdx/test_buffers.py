# SPDX-License-Identifier: MIT
"""Any buffer as the source of a TD's memory: what is measured is what it holds."""

from __future__ import annotations

import array
from collections.abc import Callable

import pytest

from kvmharness.kvm.fields import Buffer
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.source import numbered_pages
from kvmharness.machine.builder import VmBuilder
from kvmharness.measure.tdx import Mrtd
from kvmharness.standins import tdx as tdx_standin


@pytest.mark.scenario("tdx.source.any_buffer")
@pytest.mark.requires_vm_type("tdx")
def test_memory_comes_from_any_buffer(vm_builder: Callable[..., VmBuilder]) -> None:
    pages = numbered_pages(2)
    mrtd = Mrtd()
    with vm_builder("tdx").guest_memfd(0, 8 * PAGE_SIZE).vcpus(1).build() as machine:
        machine.set_private(0, 8 * PAGE_SIZE)
        vcpu = machine.tdx_vcpu()
        vcpu.init_vcpu()
        buffers: list[Buffer] = [
            pages,
            bytearray(pages),
            memoryview(pages),
            array.array("Q", pages),
        ]
        for index, buffer in enumerate(buffers):
            gpa = 2 * index * PAGE_SIZE
            result = vcpu.try_.init_mem_region(gpa, 2, source=buffer)
            assert result.ok
            assert result.written_back == (gpa + 2 * PAGE_SIZE, 2 * PAGE_SIZE, 0)
            for page in range(2):
                contents = pages[page * PAGE_SIZE :][:PAGE_SIZE]
                mrtd.add_page(gpa + page * PAGE_SIZE, contents)
        machine.tdx.finalize_vm()
        if tdx_standin.present():
            assert tdx_standin.mrtd() == mrtd.hexdigest()
