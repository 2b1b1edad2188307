# SPDX-License-Identifier: MIT
"""KVM_MEMORY_ENCRYPT_OP on SEV's VMs: the one door of every launch command, and KVM_SEV_INIT2."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm.fenced import fenced_copy
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import fd_number, make, pointer_to, u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.vm import Vm
from kvmharness.launch.firmware import firmware_error_name

#: Sub-commands of KVM_MEMORY_ENCRYPT_OP on SEV's VMs, and the struct that each takes.
_STRUCTS = {
    "KVM_SEV_INIT": None,
    "KVM_SEV_ES_INIT": None,
    "KVM_SEV_INIT2": "kvm_sev_init",
    "KVM_SEV_LAUNCH_START": "kvm_sev_launch_start",
    "KVM_SEV_LAUNCH_UPDATE_DATA": "kvm_sev_launch_update_data",
    "KVM_SEV_LAUNCH_UPDATE_VMSA": None,
    "KVM_SEV_LAUNCH_SECRET": "kvm_sev_launch_secret",
    "KVM_SEV_LAUNCH_MEASURE": "kvm_sev_launch_measure",
    "KVM_SEV_LAUNCH_FINISH": None,
    "KVM_SEV_SEND_START": "kvm_sev_send_start",
    "KVM_SEV_SEND_UPDATE_DATA": "kvm_sev_send_update_data",
    "KVM_SEV_SEND_FINISH": None,
    "KVM_SEV_SEND_CANCEL": None,
    "KVM_SEV_RECEIVE_START": "kvm_sev_receive_start",
    "KVM_SEV_RECEIVE_UPDATE_DATA": "kvm_sev_receive_update_data",
    "KVM_SEV_RECEIVE_FINISH": None,
    "KVM_SEV_GUEST_STATUS": "kvm_sev_guest_status",
    "KVM_SEV_DBG_DECRYPT": "kvm_sev_dbg",
    "KVM_SEV_DBG_ENCRYPT": "kvm_sev_dbg",
    "KVM_SEV_GET_ATTESTATION_REPORT": "kvm_sev_attestation_report",
    "KVM_SEV_SNP_LAUNCH_START": "kvm_sev_snp_launch_start",
    "KVM_SEV_SNP_LAUNCH_UPDATE": "kvm_sev_snp_launch_update",
    "KVM_SEV_SNP_LAUNCH_FINISH": "kvm_sev_snp_launch_finish",
    "KVM_SEV_SNP_ENABLE_REQ_CERTS": None,
}
_COMMAND_NAMES = {int(getattr(lib, name)): name for name in _STRUCTS}
_TAKES = {
    int(getattr(lib, name)): pointer_to(struct) for name, struct in _STRUCTS.items() if struct
}


class SevCommandTry:
    """What every kind of SEV VM takes, each call giving a Result. Values reach KVM unchecked."""

    def __init__(self, commands: SevCommands) -> None:
        self._commands = commands

    def init2(self, vmsa_features: int = 0, flags: int = 0, ghcb_version: int = 0) -> Result[int]:
        """KVM_SEV_INIT2 (6.10): make the VM a SEV, SEV-ES or SNP one, as its type says.

        `vmsa_features` has to lie in what KVM_X86_SEV_VMSA_FEATURES offers; `ghcb_version` 0 is
        the default, 2. EINVAL: after a vCPU, a second time, or for values out of range.
        """
        parameters = make(
            "struct kvm_sev_init *",
            vmsa_features=vmsa_features,
            flags=flags,
            ghcb_version=ghcb_version,
        )
        return self._command("KVM_SEV_INIT2", parameters)

    def command(self, number: int, parameters: Any = None) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP with a sub-command number and the struct it takes, or NULL.

        Of the sub-commands that are not known here any struct is taken.
        """
        if parameters is None:
            return self.raw_command(number, 0)
        if number not in _TAKES:
            with fenced_copy(parameters) as copy:  # how much of it KVM takes is not known here
                return self.raw_command(number, copy, show=parameters)
        address = int(ffi.cast("uintptr_t", _TAKES[number](parameters)))
        return self.raw_command(number, address, show=parameters)

    def raw_command(self, number: int, address: int, *, show: Any = None) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP with any sub-command number, and any address for its parameters.

        For tests of what the kernel does with a bad one: KVM reads and writes what lies there.
        """
        command = make(
            "struct kvm_sev_cmd *",
            id=number,
            data=u64("address", address),
            sev_fd=fd_number("sev_fd", self._commands.sev_fd),
        )
        name = _COMMAND_NAMES.get(number, "")
        result = self._commands.vm.try_.memory_encrypt_op(
            command, show=command if show is None else show, name=name or str(number)
        )
        return result.replaced(name=name or result.name)

    def _command(
        self, name: str, parameters: Any, meaning: dict[int, str] | None = None
    ) -> Result[int]:
        result = self.command(int(getattr(lib, name)), parameters)
        why = ""
        if result.errno and not result.fw_error:
            why = (meaning or {}).get(result.errno, "")
        return result.replaced(
            meaning=why,
            fw_error_name=firmware_error_name(result.fw_error) if result.fw_error else "",
        )


class SevCommands:
    """The launch side of a VM; `sev_fd` is the number of an open /dev/sev.

    Not an fd of its own: the commands go to the VM fd.
    """

    def __init__(self, vm: Vm, sev_fd: int) -> None:
        self.vm = vm
        self.sev_fd = sev_fd

    @property
    def try_(self) -> SevCommandTry:
        """The same commands, each giving a Result."""
        return SevCommandTry(self)

    init2 = raising(SevCommandTry.init2)
