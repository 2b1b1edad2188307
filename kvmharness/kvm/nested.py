# SPDX-License-Identifier: MIT
"""What a vCPU holds of a guest that the guest itself runs: KVM_GET_NESTED_STATE and its setting."""

from __future__ import annotations

import errno

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import bytes_up_to
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.record import Record

_STRUCT = "struct kvm_nested_state"
_HEADER = int(ffi.sizeof(_STRUCT))
_VENDOR = int(ffi.offsetof(_STRUCT, "hdr"))


class NestedState(Record):
    """struct kvm_nested_state.

    `flags` are KVM_STATE_NESTED_*, `format` KVM_STATE_NESTED_FORMAT_*; `header` is the vendor's
    120 bytes (struct kvm_vmx_nested_state_hdr or kvm_svm_nested_state_hdr), `data` what follows:
    the VMCS12 and its shadow, or the VMCB12.
    """

    flags: int = 0
    format: int = 0
    header: bytes = bytes(_HEADER - _VENDOR)
    data: bytes = b""


class NestedTry:
    """The calls for nested state, each giving a Result."""

    _vcpu: HasFileno

    def get_nested_state(self) -> Result[NestedState]:
        """KVM_GET_NESTED_STATE (KVM_CAP_NESTED_STATE), of whatever size it is.

        EINVAL where nested virtualisation is off.
        """
        size = _HEADER
        while True:
            memory = ffi.new("char[]", size)
            state = ffi.cast(f"{_STRUCT} *", memory)
            state.size = size
            result = ioctl.call(self._vcpu.fileno(), "KVM_GET_NESTED_STATE", state, room=size)
            if result.errno != errno.E2BIG or state.size <= size:
                break
            size = int(state.size)  # what it takes
        return result.with_value(
            NestedState(
                int(state.flags),
                int(state.format),
                bytes(ffi.buffer(memory)[_VENDOR:_HEADER]),
                bytes(ffi.buffer(memory)[_HEADER : max(_HEADER, min(int(state.size), size))]),
            )
        )

    def set_nested_state(self, state: NestedState) -> Result[int]:
        """KVM_SET_NESTED_STATE. EINVAL: a state that can't be, or nested virtualisation is off."""
        if not isinstance(state, NestedState):
            raise TypeError(f"a NestedState is required, not {type(state).__name__}")
        header = bytes_up_to("header", state.header, _HEADER - _VENDOR)
        data = bytes_up_to("data", state.data, 1 << 20)
        memory = ffi.new("char[]", _HEADER + len(data))
        argument = ffi.cast(f"{_STRUCT} *", memory)
        argument.flags = state.flags
        argument.format = state.format
        argument.size = len(memory)
        ffi.buffer(memory)[_VENDOR : _VENDOR + len(header)] = header
        ffi.buffer(memory)[_HEADER:] = data
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_NESTED_STATE", argument, room=len(memory))


class NestedCalls:
    """The raising forms of NestedTry."""

    get_nested_state = raising(NestedTry.get_nested_state)
    set_nested_state = raising(NestedTry.set_nested_state)
