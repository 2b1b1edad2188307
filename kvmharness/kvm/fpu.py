# SPDX-License-Identifier: MIT
"""A vCPU's floating point and vector registers: the legacy image, the XSAVE area, the XCRs."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Protocol, Self

from kvmharness.kvm import ioctl
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import Buffer, any_bytes
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, array, get, inside, put
from kvmharness.record import Record

#: struct kvm_xsave without what the process asked the kernel for by ARCH_REQ_XCOMP_GUEST_PERM.
XSAVE_SIZE = 4096

# Intel SDM volume 1, 13.4: the legacy region, then the header.
_XMM = 160
_XMM_SIZE = 16
_XSTATE_BV = 512


class Fpu(Struct, kind="kvm_fpu"):
    """struct kvm_fpu: x87 and SSE registers, as KVM_GET_FPU gives them."""

    fpr: MutableSequence[bytes] = array()
    fcw: int = 0
    fsw: int = 0
    ftwx: int = 0
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    xmm: MutableSequence[bytes] = array()
    mxcsr: int = 0


class Xsave(Record):
    """The XSAVE area of a vCPU, in the standard (not compacted) format of XSAVE."""

    area: bytearray

    def __bytes__(self) -> bytes:
        return bytes(self.area)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Make one of an XSAVE area's bytes."""
        return cls(bytearray(any_bytes("data", data)))

    def __copy__(self) -> Self:
        return self.from_bytes(self.area)

    @property
    def xstate_bv(self) -> int:
        """Which components are not in their initial state, a bit each, as in XCR0."""
        return int.from_bytes(self.area[_XSTATE_BV : _XSTATE_BV + 8], "little")

    @xstate_bv.setter
    def xstate_bv(self, value: int) -> None:
        self.area[_XSTATE_BV : _XSTATE_BV + 8] = value.to_bytes(8, "little")

    def xmm(self, index: int) -> bytes:
        """Return the 16 bytes of XMM register `index` (0 to 15)."""
        start = self._xmm_at(index)
        return bytes(self.area[start : start + _XMM_SIZE])

    def set_xmm(self, index: int, value: bytes) -> None:
        """Set XMM register `index` to 16 bytes; SSE (bit 1) is then in use."""
        if len(value) != _XMM_SIZE:
            raise ValueError(f"value: {_XMM_SIZE} bytes are required, not {len(value)}")
        start = self._xmm_at(index)
        self.area[start : start + _XMM_SIZE] = value
        self.xstate_bv |= 2

    @staticmethod
    def _xmm_at(index: int) -> int:
        if not 0 <= index < 16:
            raise ValueError(f"index: there are XMM registers 0 to 15, not {index}")
        return _XMM + index * _XMM_SIZE


class Xcr(Struct, kind="kvm_xcr"):
    """struct kvm_xcr: the value of one extended control register."""

    xcr: int = 0
    value: int = 0


class Xcrs(Struct, kind="kvm_xcrs"):
    """struct kvm_xcrs: the first `nr_xcrs` of `xcrs` count; x86 has one, XCR0."""

    nr_xcrs: int = 0
    flags: int = 0
    xcrs: MutableSequence[Xcr] = inside(Xcr)


class _XsaveFd(Protocol):
    xsave_size: int

    def fileno(self) -> int: ...


class FpuTry:
    """The calls for floating point state, each giving a Result."""

    _vcpu: _XsaveFd

    def get_fpu(self) -> Result[Fpu]:
        """KVM_GET_FPU: x87 and SSE registers. EINVAL: the state is the guest's secret."""
        return get(self._vcpu, "KVM_GET_FPU", Fpu)

    def set_fpu(self, fpu: Fpu) -> Result[int]:
        """KVM_SET_FPU.

        Where the host has XSAVE, the guest gets of it what the area's `xstate_bv` says is in use,
        and that stays as it was: set_xsave sets both.
        """
        return put(self._vcpu, "KVM_SET_FPU", fpu, Fpu)

    def get_xsave(self) -> Result[Xsave]:
        """KVM_GET_XSAVE: 4096 bytes. EINVAL (5.17): the vCPU has more state; get_xsave2 has it."""
        return self._get_xsave("KVM_GET_XSAVE", XSAVE_SIZE)

    def get_xsave2(self, size: int | None = None) -> Result[Xsave]:
        """KVM_GET_XSAVE2 (5.17): the whole XSAVE area.

        `size` is in bytes, by default what KVM_CAP_XSAVE2 said when the vCPU was made. EFAULT: the
        kernel has more than that to write.
        """
        return self._get_xsave("KVM_GET_XSAVE2", self._vcpu.xsave_size if size is None else size)

    def set_xsave(self, xsave: Xsave) -> Result[int]:
        """KVM_SET_XSAVE of what get_xsave or get_xsave2 gave.

        EFAULT: it is shorter than the kernel's; EINVAL: a header or MXCSR that can't be.
        """
        if not isinstance(xsave, Xsave):
            raise TypeError(f"an Xsave is required, not {type(xsave).__name__}")
        with FencedBuffer(max(len(xsave.area), XSAVE_SIZE)) as buffer:
            buffer.write(xsave.area)
            return self._issue("KVM_SET_XSAVE", buffer)

    def get_xcrs(self) -> Result[Xcrs]:
        """KVM_GET_XCRS: XCR0. EINVAL where the host has no XSAVE."""
        return get(self._vcpu, "KVM_GET_XCRS", Xcrs)

    def set_xcrs(self, xcrs: Xcrs) -> Result[int]:
        """KVM_SET_XCRS. EINVAL: more than 16, flags, or bits that the vCPU's CPUID lacks."""
        return put(self._vcpu, "KVM_SET_XCRS", xcrs, Xcrs)

    def _get_xsave(self, name: str, size: int) -> Result[Xsave]:
        with FencedBuffer(max(size, XSAVE_SIZE)) as buffer:
            result = self._issue(name, buffer)
            return result.with_value(Xsave(bytearray(buffer.read())))

    def _issue(self, name: str, buffer: FencedBuffer) -> Result[int]:
        # The kernel's size depends on what the process was permitted; the fence is behind ours.
        area = ffi.cast("struct kvm_xsave *", buffer.address)
        return ioctl.call(self._vcpu.fileno(), name, area)


class FpuCalls:
    """The raising forms of FpuTry."""

    #: Bytes of the XSAVE area, as KVM_CAP_XSAVE2 told when the vCPU was made.
    xsave_size = XSAVE_SIZE

    get_fpu = raising(FpuTry.get_fpu)
    set_fpu = raising(FpuTry.set_fpu)
    get_xsave = raising(FpuTry.get_xsave)
    get_xsave2 = raising(FpuTry.get_xsave2)
    set_xsave = raising(FpuTry.set_xsave)
    get_xcrs = raising(FpuTry.get_xcrs)
    set_xcrs = raising(FpuTry.set_xcrs)
