# SPDX-License-Identifier: MIT
"""Many ranges populated in one go: what each struct has, where it ends; the shim's loop is a fake.

tests/snp and tests/tdx have the shim's own loop before a kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import KernelFault
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import PageType, Snp
from kvmharness.launch.tdx import TdxVcpu

VM_FD = 1002  # no fd of this process: it reaches the fake alone
PAGE = 4096
UPDATE = "struct kvm_sev_snp_launch_update *"
REGION = "struct kvm_tdx_init_mem_region *"


class FakeShim:
    """Does as kvmh_populate_many() does, a part a turn; `answer` is the kernel's part of a call."""

    def __init__(self) -> None:
        self.kinds = {lib.KVM_SEV_SNP_LAUNCH_UPDATE: UPDATE, lib.KVM_TDX_INIT_MEM_REGION: REGION}
        self.answer: Callable[[Any, Any], int] = lambda order, part: 0
        self.orders: list[Any] = []

    def populate(
        self,
        fd: int,
        order: Any,
        data_at: int,
        structs: Any,
        size: int,
        left_at: int,
        count: int,
        progress: Any,
    ) -> int:
        assert fd == VM_FD
        assert data_at == 8
        self.orders.append(int(ffi.cast("uint32_t *", order)[0]))
        kind = self.kinds[self.orders[-1]]
        command = "kvm_tdx_cmd" if kind == REGION else "kvm_sev_cmd"
        part = ffi.cast(kind, structs + progress[0] * size)
        left = ffi.cast("uint64_t *", structs + progress[0] * size + left_at)
        before = int(left[0])
        ret = self.answer(ffi.cast(f"struct {command} *", order), part)
        progress[1] += 1
        if ret < 0:
            return ret
        progress[0] += left[0] == 0
        return int(left[0] >= before > 0)


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> FakeShim:
    fake = FakeShim()
    monkeypatch.setattr(ioctl, "_populate_many", fake.populate)
    return fake


@pytest.fixture
def snp(shim: FakeShim) -> Iterator[Snp]:
    vm = Vm(VM_FD, 12288, VmType.SNP)
    yield Snp(vm, 77)
    vm._fd = -1


class _FakeVcpu:
    """As much of a vCPU as populate_many() takes."""

    def fileno(self) -> int:
        return VM_FD


@pytest.fixture
def vcpu(shim: FakeShim) -> TdxVcpu:
    return TdxVcpu(_FakeVcpu())  # type: ignore[arg-type]


def two_pages(order: Any, part: Any) -> int:
    """Populate up to two pages a call, as a kernel may."""
    done = min(part.len, 2 * PAGE)
    part.gfn_start += done // PAGE
    part.uaddr += done * (part.type != PageType.ZERO)
    part.len -= done
    return 0


SNP_PARTS = [
    (0, 3 * PAGE, 0x10000, PageType.NORMAL),
    (16 * PAGE, PAGE, None, PageType.ZERO),
    (32 * PAGE, 5 * PAGE, 0x50000, PageType.UNMEASURED),
]


def test_snp_populates_each_part_to_its_end(shim: FakeShim, snp: Snp) -> None:
    seen: list[tuple[int, ...]] = []

    def answer(order: Any, part: Any) -> int:
        assert order.sev_fd == 77
        seen.append((int(part.gfn_start), int(part.uaddr), int(part.len), int(part.type)))
        assert part.flags == 3
        return two_pages(order, part)

    shim.answer = answer
    result = snp.try_.populate_many(iter(SNP_PARTS), flags=3)
    assert (result.errno, result.value, result.written_back) == (0, 6, (3, 0, 0, 0))
    assert seen[:3] == [(0, 0x10000, 3 * PAGE, 1), (2, 0x12000, PAGE, 1), (16, 0, PAGE, 3)]
    assert snp.populate_many([]) == 0


def test_snp_says_where_it_stopped_and_why(shim: FakeShim, snp: Snp) -> None:
    def answer(order: Any, part: Any) -> int:
        if part.gfn_start == 34:
            order.error = lib.SEV_RET_INVALID_PAGE_SIZE
            return -errno.EIO
        return two_pages(order, part)

    shim.answer = answer
    with pytest.raises(KvmError, match=r"LAUNCH_UPDATE failed: EIO .*2 of 3 before it") as caught:
        snp.populate_many(SNP_PARTS)
    result = caught.value.result
    assert result.written_back == (2, 34 * PAGE, 0x52000, 3 * PAGE)
    assert result.fw_error == lib.SEV_RET_INVALID_PAGE_SIZE
    assert "PAGE_SIZE" in result.fw_error_name


@pytest.mark.parametrize("left", [0, 1])
def test_success_without_progress_is_not_believed(shim: FakeShim, snp: Snp, left: int) -> None:
    def answer(order: Any, part: Any) -> int:
        part.len += left
        return 0

    shim.answer = answer
    with pytest.raises(KernelFault, match="LAUNCH_UPDATE returned 0 and left all"):
        snp.populate_many(SNP_PARTS)


def test_tdx_goes_on_after_signals_and_says_where_it_stopped(shim: FakeShim, vcpu: TdxVcpu) -> None:
    def answer(order: Any, part: Any) -> int:
        assert order.flags == lib.KVM_TDX_MEASURE_MEMORY_REGION
        if part.gpa == 0x9000:
            order.hw_error = 0xC000_0100_0000_0000
            return -errno.EIO
        part.gpa += PAGE
        part.source_addr += PAGE
        part.nr_pages -= 1
        return -errno.EINTR if part.nr_pages else 0

    shim.answer = answer
    assert vcpu.populate_many([(0, 3, 0x10000), (0x4000, 1, 0x20000)]) == 4
    result = vcpu.try_.populate_many([(0, 3, 0x10000), (0x8000, 2, 0x20000)])
    assert (result.errno, result.written_back) == (errno.EIO, (1, 0x9000, 0x21000, 1))
    assert result.fw_error == 0xC000_0100_0000_0000


def test_tdx_can_leave_out_the_measurement(shim: FakeShim, vcpu: TdxVcpu) -> None:
    flags = []

    def answer(order: Any, part: Any) -> int:
        flags.append(int(order.flags))
        part.nr_pages = 0
        return 0

    shim.answer = answer
    vcpu.populate_many([(0, 3, None)], measure=False)
    assert flags == [0]


def test_a_trace_has_an_entry_for_each_go(shim: FakeShim, snp: Snp) -> None:
    shim.answer = two_pages
    with ioctl.recording() as entries:
        snp.populate_many(SNP_PARTS[1:2])
    (entry,) = entries
    assert entry["ioctl"] == "KVM_MEMORY_ENCRYPT_OP KVM_SEV_SNP_LAUNCH_UPDATE"
    assert entry["before"]["first"]["gfn_start"] == 16
    assert entry["after"] == {"done": 1, "calls": 1}


def test_the_shim_ends_at_the_first_failure() -> None:
    reading, writing = (OwnedFd(fd) for fd in os.pipe())
    with reading, writing:
        order = ffi.new("struct kvm_sev_cmd *")
        parts = ffi.new("struct kvm_sev_snp_launch_update[2]", [{"len": PAGE}, {"len": PAGE}])
        progress = ffi.new("uint64_t[2]")
        ret = ioctl.populate_many(reading.fileno(), "X", order, parts, "len", progress)
        assert (ret, list(progress)) == (-errno.ENOTTY, [0, 1])
        assert order.data == int(ffi.cast("uintptr_t", parts))
