# SPDX-License-Identifier: MIT
"""KVM_MEMORY_ENCRYPT_OP on SEV's VMs: the one door of every launch command, and KVM_SEV_INIT2."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm.fenced import fenced_copy
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import fd_number, u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.memory_encrypt import SevCommand, memory_encrypt_op
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, of_type
from kvmharness.kvm.vm import Vm
from kvmharness.launch import sev_structs as structs
from kvmharness.launch.firmware import firmware_error_name

#: Sub-commands of KVM_MEMORY_ENCRYPT_OP on SEV's VMs, and the struct that each takes.
_STRUCTS: dict[str, type[Struct] | None] = {
    "KVM_SEV_INIT": None,
    "KVM_SEV_ES_INIT": None,
    "KVM_SEV_INIT2": structs.SevInit,
    "KVM_SEV_LAUNCH_START": structs.SevLaunchStart,
    "KVM_SEV_LAUNCH_UPDATE_DATA": structs.SevLaunchUpdateData,
    "KVM_SEV_LAUNCH_UPDATE_VMSA": None,
    "KVM_SEV_LAUNCH_SECRET": structs.SevLaunchSecret,
    "KVM_SEV_LAUNCH_MEASURE": structs.SevLaunchMeasure,
    "KVM_SEV_LAUNCH_FINISH": None,
    "KVM_SEV_SEND_START": structs.SevSendStart,
    "KVM_SEV_SEND_UPDATE_DATA": structs.SevSendUpdateData,
    "KVM_SEV_SEND_FINISH": None,
    "KVM_SEV_SEND_CANCEL": None,
    "KVM_SEV_RECEIVE_START": structs.SevReceiveStart,
    "KVM_SEV_RECEIVE_UPDATE_DATA": structs.SevReceiveUpdateData,
    "KVM_SEV_RECEIVE_FINISH": None,
    "KVM_SEV_GUEST_STATUS": structs.SevGuestStatus,
    "KVM_SEV_DBG_DECRYPT": structs.SevDbg,
    "KVM_SEV_DBG_ENCRYPT": structs.SevDbg,
    "KVM_SEV_GET_ATTESTATION_REPORT": structs.SevAttestationReport,
    "KVM_SEV_SNP_LAUNCH_START": structs.SnpLaunchStart,
    "KVM_SEV_SNP_LAUNCH_UPDATE": structs.SnpLaunchUpdate,
    "KVM_SEV_SNP_LAUNCH_FINISH": structs.SnpLaunchFinish,
    "KVM_SEV_SNP_ENABLE_REQ_CERTS": None,
}
_COMMAND_NAMES = {int(getattr(lib, name)): name for name in _STRUCTS}
_TAKES = {int(getattr(lib, name)): kind for name, kind in _STRUCTS.items() if kind is not None}


class SevCommandTry:
    """What every kind of SEV VM takes, each call giving a Result. Values reach KVM unchecked."""

    def __init__(self, commands: SevCommands) -> None:
        self._commands = commands

    def init2(self, vmsa_features: int = 0, flags: int = 0, ghcb_version: int = 0) -> Result[int]:
        """KVM_SEV_INIT2 (6.10): make the VM a SEV, SEV-ES or SNP one, as its type says.

        `vmsa_features` has to lie in what KVM_X86_SEV_VMSA_FEATURES offers; `ghcb_version` 0 is
        the default, 2. EINVAL: after a vCPU, a second time, or for values out of range.
        """
        parameters = structs.SevInit(
            vmsa_features=vmsa_features, flags=flags, ghcb_version=ghcb_version
        )
        return self._command("KVM_SEV_INIT2", parameters)

    def command(self, number: int, parameters: Struct | None = None) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP with a sub-command number and the struct it takes, or NULL.

        They are in ``launch.sev_structs``. Of the sub-commands that are not known here any struct
        is taken.
        """
        if parameters is None:
            return self.raw_command(number, 0)
        if number in _TAKES:
            pointer = of_type(_TAKES[number], parameters)
            return self._issue(number, int(ffi.cast("uintptr_t", pointer)), pointer)
        pointer = of_type(Struct, parameters)
        with fenced_copy(pointer) as copy:  # how much of it KVM takes is not known here
            return self._issue(number, copy, pointer)

    def raw_command(self, number: int, address: int) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP with any sub-command number, and any address for its parameters.

        For tests of what the kernel does with a bad one: KVM reads and writes what lies there.
        """
        return self._issue(number, address, None)

    def _issue(self, number: int, address: int, show: Any) -> Result[int]:
        command = SevCommand(
            id=number,
            data=u64("address", address),
            sev_fd=fd_number("sev_fd", self._commands.sev_fd),
        )
        name = _COMMAND_NAMES.get(number, "")
        shown = command.pointer if show is None else show
        result = memory_encrypt_op(self._commands.vm, command, shown, name or str(number))
        return result.replaced(name=name or result.name)

    def _command(
        self, name: str, parameters: Struct | None, meaning: dict[int, str] | None = None
    ) -> Result[int]:
        return self._explained(self.command(int(getattr(lib, name)), parameters), meaning)

    def _explained(self, result: Result[int], meaning: dict[int, str] | None) -> Result[int]:
        """Return `result` with what is known of its errno, or of the firmware's code."""
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
