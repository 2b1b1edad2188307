# SPDX-License-Identifier: MIT
"""What each TDX command puts into its structs, and what is made of the answer; KVM is a fake."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kvm import ioctl
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry, read_cpuid
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.tdx import (
    Tdx,
    TdxCapabilities,
    TdxVcpu,
)

VM_FD = 1002  # no fd of this process: it reaches the fake KVM alone
VCPU_FD = 1003
PAGE = 4096


_STRUCTS = {
    lib.KVM_TDX_CAPABILITIES: "kvm_tdx_capabilities",
    lib.KVM_TDX_INIT_VM: "kvm_tdx_init_vm",
    lib.KVM_TDX_INIT_MEM_REGION: "kvm_tdx_init_mem_region",
    lib.KVM_TDX_GET_CPUID: "kvm_cpuid2",
}


class FakeTdx:
    """Answers KVM_MEMORY_ENCRYPT_OP by a function of the command and what its data points to."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, Any], int] = lambda command, data: 0
        self.commands: list[tuple[int, int, int]] = []  # fd, id, flags

    def issue(self, fd: int, request: int, argument: Any) -> int:
        assert request == lib.KVM_MEMORY_ENCRYPT_OP
        self.commands.append((fd, int(argument.id), int(argument.flags)))
        struct = _STRUCTS.get(argument.id)
        data = ffi.cast(f"struct {struct} *", argument.data) if struct else int(argument.data)
        return self.answer(argument, data)


@pytest.fixture
def kvm(monkeypatch: pytest.MonkeyPatch) -> FakeTdx:
    fake = FakeTdx()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def tdx(kvm: FakeTdx) -> Iterator[Tdx]:
    vm = Vm(VM_FD, PAGE, VmType.TDX)
    yield Tdx(vm)
    vm._fd = -1


class _FakeVcpu:
    """As much of a vCPU as TdxVcpu takes."""

    def fileno(self) -> int:
        return VCPU_FD


@pytest.fixture
def vcpu(kvm: FakeTdx) -> TdxVcpu:
    return TdxVcpu(_FakeVcpu())  # type: ignore[arg-type]


# ------------------------------------------------------------------ the VM's commands


def test_init_vm_fills_the_struct(kvm: FakeTdx, tdx: Tdx) -> None:
    seen: dict[str, Any] = {}

    def answer(command: Any, data: Any) -> int:
        seen.update(
            attributes=int(data.attributes),
            xfam=int(data.xfam),
            mrconfigid=bytes(ffi.buffer(data.mrconfigid)),
            mrowner=bytes(ffi.buffer(data.mrowner)),
            mrownerconfig=bytes(ffi.buffer(data.mrownerconfig)),
            reserved=[int(word) for word in data.reserved],
            nent=int(data.cpuid.nent),
            cpuid=list(read_cpuid(data.cpuid, data.cpuid.nent)),
        )
        return 0

    kvm.answer = answer
    entries = [CpuidEntry(1, 0, 1, 2, 3, 4), CpuidEntry(0x80000008, 0, 48 << 16, flags=1)]
    tdx.init_vm(
        cpuid=entries,
        attributes=1 << 28,
        xfam=3,
        mrconfigid=b"config".ljust(48, b"!"),
        mrowner=b"owner",
        mrownerconfig=b"",
    )
    assert kvm.commands == [(VM_FD, lib.KVM_TDX_INIT_VM, 0)]
    assert seen == {
        "attributes": 1 << 28,
        "xfam": 3,
        "mrconfigid": b"config".ljust(48, b"!"),
        "mrowner": b"owner".ljust(48, b"\0"),
        "mrownerconfig": bytes(48),
        "reserved": [0] * 12,
        "nent": 2,
        "cpuid": entries,
    }


def test_the_modules_status_is_named(kvm: FakeTdx, tdx: Tdx) -> None:
    def refuse(command: Any, data: Any) -> int:
        command.hw_error = 0xC000010000000045
        return -errno.EINVAL

    kvm.answer = refuse
    result = tdx.try_.init_vm(cpuid=[])
    assert (result.name, result.errno, result.fw_error) == (
        "KVM_TDX_INIT_VM",
        errno.EINVAL,
        0xC000010000000045,
    )
    with pytest.raises(KvmError, match=r"KVM_TDX_INIT_VM failed: EINVAL.*OPERAND_INVALID:CPUID_CO"):
        result.unwrap()


def test_a_status_that_was_passed_in_is_not_the_modules(kvm: FakeTdx, tdx: Tdx) -> None:
    kvm.answer = lambda command, data: -errno.EINVAL
    result = tdx.try_.command(lib.KVM_TDX_FINALIZE_VM, hw_error=1 << 63)
    assert (result.errno, result.fw_error) == (errno.EINVAL, 0)


def test_capabilities_asks_again_with_more_room(kvm: FakeTdx, tdx: Tdx) -> None:
    asked: list[int] = []

    def answer(command: Any, data: Any) -> int:
        asked.append(int(data.cpuid.nent))
        if asked[-1] < 20:
            return -errno.E2BIG
        data.supported_attrs = 1 << 28
        data.cpuid.nent = 1
        return 0

    kvm.answer = answer
    capabilities = tdx.capabilities(0)
    assert asked == [0, 1, 2, 4, 8, 16, 32]
    assert capabilities.supported_attrs == 1 << 28
    assert capabilities.cpuid == Cpuid([CpuidEntry(0)])


def test_capabilities_gives_up_at_kvms_own_limit(kvm: FakeTdx, tdx: Tdx) -> None:
    kvm.answer = lambda command, data: -errno.E2BIG
    with pytest.raises(KvmError, match="KVM_TDX_CAPABILITIES failed: E2BIG"):
        tdx.capabilities()
    assert len(kvm.commands) == 3  # 64, 128, 256 entries


def test_cpuid_is_cut_to_what_may_be_configured() -> None:
    allowed = Cpuid([CpuidEntry(7, 1, 0xF0, 0, 0xF), CpuidEntry(0x80000008, 0, 0xFF00FF)])
    capabilities = TdxCapabilities(0, 0, 0, 0, 0, 0, allowed)
    supported = [
        CpuidEntry(1, 0, 1, 2, 3, 4),
        CpuidEntry(7, 0, 0xFF),
        CpuidEntry(7, 1, 0xAB, 1, 0x12, 3, flags=1),
        CpuidEntry(0x80000008, 0, 0x3028),
    ]
    assert capabilities.configure(supported) == [
        CpuidEntry(7, 1, 0xA0, 0, 0x2, 0, flags=1),
        CpuidEntry(0x80000008, 0, 48 << 16 | 0x28),
    ]
    wide = capabilities.configure(supported, guest_address_bits=52)
    assert wide[1].eax == 52 << 16 | 0x28


# ------------------------------------------------------------------ the vCPU's commands


def test_init_vcpu_passes_rcx_as_the_data(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    got: list[Any] = []
    kvm.answer = lambda command, data: got.append(data) or 0  # type: ignore[func-returns-value]
    vcpu.init_vcpu(0xFFFF_FFFF_FFFF_FFFF)
    assert kvm.commands == [(VCPU_FD, lib.KVM_TDX_INIT_VCPU, 0)]
    assert got == [0xFFFF_FFFF_FFFF_FFFF]


@pytest.mark.parametrize(
    ("options", "flags"), [({}, 1), ({"measure": False}, 0), ({"flags": 0x80000000}, 0x80000000)]
)
def test_init_mem_region_passes_everything_unchecked(
    kvm: FakeTdx, vcpu: TdxVcpu, options: dict[str, Any], flags: int
) -> None:
    seen: list[tuple[int, int, int]] = []

    def answer(command: Any, data: Any) -> int:
        seen.append((int(data.gpa), int(data.source_addr), int(data.nr_pages)))
        return 0

    kvm.answer = answer
    vcpu.try_.init_mem_region(3, (1 << 64) - 1, source=1, **options)
    vcpu.try_.init_mem_region(0, 0, source=None, **options)
    assert seen == [(3, 1, (1 << 64) - 1), (0, 0, 0)]
    assert kvm.commands == [(VCPU_FD, lib.KVM_TDX_INIT_MEM_REGION, flags)] * 2


def _stops_after(pages: int, error: int) -> Callable[[Any, Any], int]:
    """A KVM that adds at most `pages` a call, and says `error` where that was not all."""

    def answer(command: Any, data: Any) -> int:
        done = min(pages, data.nr_pages)
        data.gpa += done * PAGE
        data.source_addr += done * PAGE
        data.nr_pages -= done
        return -error if data.nr_pages else 0

    return answer


def test_progress_is_written_back_on_failure_too(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    kvm.answer = _stops_after(2, errno.EFAULT)
    result = vcpu.try_.init_mem_region(PAGE, 5, source=0x10000)
    assert (result.errno, result.written_back) == (errno.EFAULT, (3 * PAGE, 0x12000, 3))


def test_populate_goes_on_after_signals(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    kvm.answer = _stops_after(2, errno.EINTR)
    assert vcpu.populate(0, 5, source=0x10000) == 3


def test_populate_raises_where_it_stopped(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    kvm.answer = _stops_after(2, errno.EFAULT)
    with pytest.raises(KvmError, match="KVM_TDX_INIT_MEM_REGION failed: EFAULT") as caught:
        vcpu.populate(0, 5, source=0x10000)
    assert caught.value.result.written_back == (2 * PAGE, 0x12000, 3)


def test_populate_does_not_believe_in_success_with_pages_left(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    kvm.answer = lambda command, data: 0
    with pytest.raises(HarnessError, match="returned 0 with 5 of 5 pages left"):
        vcpu.populate(0, 5, source=0x10000)


def test_get_cpuid_tells_how_many_entries_it_takes(kvm: FakeTdx, vcpu: TdxVcpu) -> None:
    def answer(command: Any, data: Any) -> int:
        data.nent = 56
        return -errno.E2BIG

    kvm.answer = answer
    result = vcpu.try_.get_cpuid(2)
    assert (result.errno, result.value, result.written_back) == (errno.E2BIG, None, (56,))
