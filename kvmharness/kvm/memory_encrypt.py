# SPDX-License-Identifier: MIT
"""KVM_MEMORY_ENCRYPT_OP, the door of all launch commands, and the two structs that it takes."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct


class SevCommand(Struct, kind="kvm_sev_cmd"):
    """struct kvm_sev_cmd: a command `id` (KVM_SEV_*) and the address of its parameters, `data`.

    `error` is the firmware's code afterwards; `sev_fd` an open /dev/sev.
    """

    id: int = 0
    data: int = 0
    error: int = 0
    sev_fd: int = 0


class TdxCommand(Struct, kind="kvm_tdx_cmd"):
    """struct kvm_tdx_cmd: a command `id` (KVM_TDX_*) and its `data`, an address or a number.

    `hw_error` is the TDX module's status afterwards.
    """

    id: int = 0
    flags: int = 0
    data: int = 0
    hw_error: int = 0


def memory_encrypt_op(
    fd: HasFileno, command: SevCommand | TdxCommand, show: Any = None, name: str = ""
) -> Result[int]:
    """Issue KVM_MEMORY_ENCRYPT_OP on a VM or a vCPU.

    The firmware's code is read back after success and failure alike. In a trace, `show` (a cffi
    struct) is decoded in the command's place and `name` is the sub-command's.
    """
    data = command.pointer
    field = "error" if isinstance(command, SevCommand) else "hw_error"
    return ioctl.call(
        fd.fileno(),
        "KVM_MEMORY_ENCRYPT_OP",
        data,
        show=show,
        command=name,
        fw_error=lambda: int(getattr(data, field)),
    )
