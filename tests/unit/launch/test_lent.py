# SPDX-License-Identifier: MIT
"""Any buffer is a source of a launch: the kernel gets a copy, and what it changes comes back."""

from __future__ import annotations

import array
import errno
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    guarded_read,
    guarded_write,
    map_memory,
)
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev import PageType, Snp
from kvmharness.launch.source import SourceBuffer, lent
from kvmharness.launch.tdx import TdxVcpu

_ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS
VM_FD = 1002  # no fd of this process: it reaches the fake KVM alone
CONTENTS = b"contents".ljust(PAGE_SIZE + 8, b".")


class FakeFirmware:
    """Answers KVM_MEMORY_ENCRYPT_OP by a function of the sub-command's struct."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], int] = lambda data: 0

    def issue(self, fd: int, request: int, argument: Any) -> int:
        assert (fd, request) == (VM_FD, lib.KVM_MEMORY_ENCRYPT_OP)
        is_tdx = ffi.typeof(argument).item.cname == "struct kvm_tdx_cmd"
        struct = "kvm_tdx_init_mem_region" if is_tdx else "kvm_sev_snp_launch_update"
        return self.answer(ffi.cast(f"struct {struct} *", argument.data))


@pytest.fixture
def firmware(monkeypatch: pytest.MonkeyPatch) -> FakeFirmware:
    fake = FakeFirmware()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def snp(firmware: FakeFirmware) -> Iterator[Snp]:
    vm = Vm(VM_FD, PAGE_SIZE, VmType.SNP)
    yield Snp(vm, -1)
    vm._fd = -1


class _FakeVcpu:
    """As much of a vCPU as TdxVcpu takes."""

    def fileno(self) -> int:
        return VM_FD


def shared_map() -> mmap.mmap:
    made = mmap.mmap(-1, len(CONTENTS))
    made[:] = CONTENTS
    return made


BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: CONTENTS,
    "bytearray": lambda: bytearray(CONTENTS),
    "memoryview": lambda: memoryview(bytearray(CONTENTS)),
    "readonly memoryview": lambda: memoryview(CONTENTS),
    "array of words": lambda: array.array("Q", CONTENTS),
    "mmap": shared_map,
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_the_kernel_finds_whole_pages_of_it(firmware: FakeFirmware, snp: Snp, kind: str) -> None:
    seen: list[bytes] = []

    def look(data: Any) -> int:
        assert data.uaddr % PAGE_SIZE == 0
        seen.append(guarded_read(int(data.uaddr), 2 * PAGE_SIZE))
        with pytest.raises(HarnessError):  # and nothing behind them
            guarded_read(int(data.uaddr) + 2 * PAGE_SIZE, 1)
        assert data.len == 1 << 40  # a value like any other
        return 0

    firmware.answer = look
    assert snp.try_.launch_update(0, 1 << 40, source=BUFFERS[kind](), type=PageType.NORMAL).ok
    assert seen == [CONTENTS.ljust(2 * PAGE_SIZE, b"\0")]


@pytest.mark.parametrize("kind", BUFFERS)
def test_what_the_firmware_corrects_comes_back_where_it_may(
    firmware: FakeFirmware, snp: Snp, kind: str
) -> None:
    """A wrong CPUID page: the call fails, and KVM copies what the firmware wants to the source."""

    def correct(data: Any) -> int:
        guarded_write(int(data.uaddr), b"corrected")
        return -errno.EIO

    firmware.answer = correct
    source = BUFFERS[kind]()
    readonly = memoryview(source).readonly
    result = snp.try_.launch_update(0, PAGE_SIZE, source=source, type=PageType.CPUID)
    assert result.errno_name == "EIO"
    left = memoryview(source).tobytes()
    assert left == (CONTENTS if readonly else b"corrected" + CONTENTS[9:])
    assert CONTENTS.startswith(b"contents.")


def test_progress_is_told_by_the_offset(firmware: FakeFirmware, snp: Snp) -> None:
    def one_page(data: Any) -> int:
        data.gfn_start, data.uaddr, data.len = data.gfn_start + 1, data.uaddr + PAGE_SIZE, 8
        return 0

    firmware.answer = one_page
    result = snp.try_.launch_update(0x4000, PAGE_SIZE + 8, source=CONTENTS, type=PageType.NORMAL)
    assert result.written_back == (0x5000, PAGE_SIZE, 8)


def test_populate_goes_on_in_the_same_copy(firmware: FakeFirmware, snp: Snp) -> None:
    seen: list[bytes] = []

    def one_page(data: Any) -> int:
        seen.append(guarded_read(int(data.uaddr), 8))
        done = min(int(data.len), PAGE_SIZE)
        data.gfn_start, data.uaddr = data.gfn_start + 1, data.uaddr + done
        data.len -= done
        return 0

    firmware.answer = one_page
    assert snp.populate(0, 2 * PAGE_SIZE, source=CONTENTS) == 2
    assert seen == [b"contents", b"........"]


def test_a_tds_memory_comes_from_a_buffer_too(firmware: FakeFirmware) -> None:
    vcpu = TdxVcpu(_FakeVcpu())  # type: ignore[arg-type]
    seen: list[bytes] = []

    def add(data: Any) -> int:
        seen.append(guarded_read(int(data.source_addr), 8))
        data.gpa, data.source_addr = data.gpa + PAGE_SIZE, data.source_addr + PAGE_SIZE
        data.nr_pages -= 1
        return -errno.EINTR if data.nr_pages else 0

    firmware.answer = add
    result = vcpu.try_.init_mem_region(0, 2, source=CONTENTS)
    assert (result.errno_name, result.written_back) == ("EINTR", (PAGE_SIZE, PAGE_SIZE, 1))
    assert vcpu.populate(0, 2, source=bytearray(CONTENTS)) == 2
    assert seen == [b"contents", b"contents", b"........"]


def test_memory_with_an_address_is_used_in_place() -> None:
    with (
        SourceBuffer.anonymous(1, offset=8) as source,
        map_memory(PAGE_SIZE, flags=_ANONYMOUS) as mapping,
    ):
        for thing, address in ((source, source.address), (mapping, mapping.address)):
            with lent(thing) as given:
                assert given == (address, 0)
    for number, address in ((None, 0), (0x1234, 0x1234), (-1, -1)):
        with lent(number) as given:
            assert given == (address, 0)


def test_what_is_no_buffer_is_no_source(firmware: FakeFirmware, snp: Snp) -> None:
    firmware.answer = lambda data: pytest.fail("the kernel was asked")
    wrong: Any
    for wrong in (1.5, "text", [1], object()):
        with pytest.raises(TypeError, match=r"^source: bytes are required, not "):
            snp.launch_update(0, PAGE_SIZE, source=wrong, type=PageType.NORMAL)


def test_an_empty_buffer_is_no_page(firmware: FakeFirmware, snp: Snp) -> None:
    def look(data: Any) -> int:
        with pytest.raises(HarnessError):
            guarded_read(int(data.uaddr), 1)
        return -errno.EFAULT

    firmware.answer = look
    assert not snp.try_.launch_update(0, PAGE_SIZE, source=b"", type=PageType.NORMAL).ok
