# SPDX-License-Identifier: MIT
"""The SEV launch: KVM_SEV_INIT2, and SEV-SNP's LAUNCH_START, LAUNCH_UPDATE and LAUNCH_FINISH.

One ioctl a method; ``Snp.populate`` is the loop that the kernel's documentation asks for. Facts are
from Documentation/virt/kvm/x86/amd-memory-encryption.rst and arch/x86/kvm/svm/sev.c of 7.3.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
from enum import IntEnum, IntFlag
from typing import Any

from kvmharness.errors import KernelFault, MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.fenced import fenced_copy
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import bytes_exactly, bytes_up_to, fd_number, make, pointer_to, u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import KvmError, Result
from kvmharness.kvm.vm import Vm
from kvmharness.launch.source import SourceBuffer

DEV_SEV = "/dev/sev"


class PageType(IntEnum):
    """KVM_SEV_SNP_PAGE_TYPE_*: what a page of LAUNCH_UPDATE is (SNP firmware ABI, table 67)."""

    NORMAL = 1
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class SnpPolicy(IntFlag):
    """Bits of the guest policy (SNP firmware ABI, section 4.3). Bit 17 has to be one."""

    SMT = 1 << 16
    RESERVED_MUST_BE_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20


DEFAULT_POLICY = SnpPolicy.SMT | SnpPolicy.RESERVED_MUST_BE_ONE


@functools.cache
def firmware_names() -> dict[int, str]:
    """Return the names of the firmware's status codes, by code."""
    names: dict[int, str] = {}
    for name in dir(lib):
        # SEV_RET_INAVLID_CONFIG is the uAPI's own misspelling of the next one.
        if name.startswith("SEV_RET_") and "INAVLID" not in name:
            short = name.removeprefix("SEV_RET_").removeprefix("HWSEV_RET_")
            names.setdefault(
                int(getattr(lib, name)) & 0xFFFFFFFF, short.removeprefix("SEV_STATUS_")
            )
    return names


def firmware_error_name(code: int) -> str:
    """Return the name of a firmware status code (SEV_RET_* of linux/psp-sev.h without prefix)."""
    return firmware_names().get(code & 0xFFFFFFFF, f"{code:#x}")


#: Sub-commands of KVM_MEMORY_ENCRYPT_OP on SEV's VMs, and the struct that each takes.
_STRUCTS = {
    "KVM_SEV_INIT2": "kvm_sev_init",
    "KVM_SEV_SNP_LAUNCH_START": "kvm_sev_snp_launch_start",
    "KVM_SEV_SNP_LAUNCH_UPDATE": "kvm_sev_snp_launch_update",
    "KVM_SEV_SNP_LAUNCH_FINISH": "kvm_sev_snp_launch_finish",
    "KVM_SEV_SNP_ENABLE_REQ_CERTS": None,
    "KVM_SEV_INIT": None,
    "KVM_SEV_LAUNCH_START": "kvm_sev_launch_start",
    "KVM_SEV_GUEST_STATUS": "kvm_sev_guest_status",
}
_COMMAND_NAMES = {int(getattr(lib, name)): name for name in _STRUCTS}
_TAKES = {
    int(getattr(lib, name)): pointer_to(struct) for name, struct in _STRUCTS.items() if struct
}

#: What the firmware reads of an ID block and of its authentication (SNP firmware ABI, 8.16).
_ID_BLOCK_BYTES = 96
_ID_AUTH_BYTES = 4096


class SevDevice(OwnedFd):
    """/dev/sev: KVM takes its fd with every launch command, and it answers status queries."""

    @classmethod
    def open(cls, path: str = DEV_SEV) -> SevDevice:
        """Open `path`. Raises MissingCapability, with the reason, if it can't be opened."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            reason = {
                errno.ENOENT: "the ccp driver has found no secure processor with SEV, or is not "
                "loaded",
                errno.EACCES: "permission denied: SEV launches need root or access to /dev/sev",
            }.get(error.errno or 0, os.strerror(error.errno or 0))
            raise MissingCapability(path, reason) from None

    def platform_status(self) -> Result[dict[str, int]]:
        """SEV_ISSUE_CMD with SNP_PLATFORM_STATUS: firmware version, RMP state, TCB."""
        status = ffi.new("struct sev_user_data_snp_status *")
        command = ffi.new("struct sev_issue_cmd *")
        command.cmd = lib.SNP_PLATFORM_STATUS
        command.data = int(ffi.cast("uintptr_t", status))
        result = ioctl.call(
            self.fileno(), "SEV_ISSUE_CMD", command, fw_error=lambda: int(command.error)
        )
        return result.with_value(
            {
                "api_major": int(status.api_major),
                "api_minor": int(status.api_minor),
                "state": int(status.state),
                "rmp_initialized": int(status.is_rmp_initialized),
                "build": int(status.build_id),
                "guest_count": int(status.guest_count),
            }
        )


class SnpTry:
    """The launch commands of an SNP VM, each giving a Result. Values reach KVM unchecked."""

    def __init__(self, snp: Snp) -> None:
        self._snp = snp

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

    def launch_start(
        self, policy: int = DEFAULT_POLICY, *, gosvw: bytes = b"", flags: int = 0
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_START: create the guest context under `policy` and bind the ASID.

        `gosvw` is at most 16 bytes (guest OS visible workarounds), padded by zeros. EINVAL: a
        second start, flags, policy bits the host does not offer, or bit 17 not one; EIO: the
        firmware refused.
        """
        parameters = make(
            "struct kvm_sev_snp_launch_start *",
            policy=policy,
            gosvw=bytes_up_to("gosvw", gosvw, 16),
            flags=flags,
        )
        return self._command("KVM_SEV_SNP_LAUNCH_START", parameters)

    def launch_update(
        self,
        gpa: int,
        size: int,
        *,
        source: SourceBuffer | int | None,
        type: int,  # noqa: A002 (the field's name)
        flags: int = 0,
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_UPDATE: populate `size` bytes from `gpa` (bytes) once.

        `source` is a SourceBuffer, a user address in bytes, or None for NULL; `type` a PageType.
        ``written_back`` is (gpa, source address, size) as the kernel leaves them, all in bytes: it
        advances them by what it populated, and only when it returns 0. Success with a size left
        is partial progress: the error that stopped it is lost until the next call. `gpa` goes to
        the kernel as a gfn, its lower 12 bits dropped.

        EINVAL: before LAUNCH_START, an unaligned or (7.3) empty size, unknown type, flags, an
        unaligned source (7.0), a NULL source for a type that has contents (7.3), no guest_memfd
        slot. EIO: the firmware refused (``fw_error``), or with ``fw_error`` 0 KVM did: not
        private, populated before, past the slot's end, source not readable.
        """
        parameters = make(
            "struct kvm_sev_snp_launch_update *",
            gfn_start=gpa // PAGE_SIZE,
            uaddr=_address(source),
            len=size,
            type=type,
            flags=flags,
        )
        result = self._command(
            "KVM_SEV_SNP_LAUNCH_UPDATE",
            parameters,
            meaning={
                errno.EIO: "KVM could not populate the first page: it is not private, was "
                "populated before, lies past the slot's end, or its source can't be read",
                errno.EINVAL: "before LAUNCH_START, or a size, type, flags or source that is not "
                "allowed, or no guest_memfd slot there",
            },
        )
        written_back = (
            int(parameters.gfn_start) * PAGE_SIZE,
            int(parameters.uaddr),
            int(parameters.len),
        )
        return dataclasses.replace(result, written_back=written_back)

    def launch_finish(
        self,
        *,
        host_data: bytes = b"",
        id_block: bytes | None = None,
        id_auth: bytes | None = None,
        auth_key_en: bool = False,
        vcek_disabled: bool = False,
        flags: int = 0,
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_FINISH: measure the vCPUs' VMSAs and seal the launch.

        `host_data` is at most 32 bytes, padded by zeros; `id_block` is 96 and `id_auth` 4096 bytes,
        signed for this launch digest; `auth_key_en` says that `id_auth` has an author key. EINVAL:
        before LAUNCH_START, or flags; EIO: the firmware refused, ``fw_error`` says why:
        BAD_MEASUREMENT, POLICY_FAILURE or BAD_SIGNATURE for an ID block.
        """
        keep = []  # the kernel reads these during the ioctl
        addresses = {}
        for name, block, size in (
            ("id_block", id_block, _ID_BLOCK_BYTES),
            ("id_auth", id_auth, _ID_AUTH_BYTES),
        ):
            if block is not None:
                copy = ffi.new("char[]", bytes_exactly(name, block, size))
                keep.append(copy)
                addresses[f"{name}_uaddr"] = int(ffi.cast("uintptr_t", copy))
        parameters = make(
            "struct kvm_sev_snp_launch_finish *",
            **addresses,
            id_block_en=id_block is not None,
            auth_key_en=auth_key_en,
            vcek_disabled=vcek_disabled,
            host_data=bytes_up_to("host_data", host_data, 32),
            flags=flags,
        )
        return self._command("KVM_SEV_SNP_LAUNCH_FINISH", parameters)

    def enable_req_certs(self) -> Result[int]:
        """KVM_SEV_SNP_ENABLE_REQ_CERTS (7.0): have guests' certificate requests exit to userspace.

        EINVAL after a vCPU was created.
        """
        return self._command("KVM_SEV_SNP_ENABLE_REQ_CERTS", None)

    def command(self, number: int, parameters: Any = None) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP with a sub-command number and the struct it takes, or NULL.

        Of the sub-commands that have no method here any struct is taken.
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
            sev_fd=fd_number("sev_fd", self._snp.sev_fd),
        )
        name = _COMMAND_NAMES.get(number, "")
        result = self._snp.vm.try_.memory_encrypt_op(
            command, show=command if show is None else show, name=name or str(number)
        )
        return dataclasses.replace(result, name=name or result.name)

    def _command(
        self, name: str, parameters: Any, meaning: dict[int, str] | None = None
    ) -> Result[int]:
        result = self.command(int(getattr(lib, name)), parameters)
        why = ""
        if result.errno and not result.fw_error:
            why = (meaning or {}).get(result.errno, "")
        return dataclasses.replace(
            result,
            meaning=why,
            fw_error_name=firmware_error_name(result.fw_error) if result.fw_error else "",
        )


class Snp:
    """The launch side of an SEV, SEV-ES or SNP VM; `sev_fd` is the number of an open /dev/sev.

    Not an fd of its own: the commands go to the VM fd.
    """

    def __init__(self, vm: Vm, sev_fd: int) -> None:
        self.vm = vm
        self.sev_fd = sev_fd

    @property
    def try_(self) -> SnpTry:
        """The same commands, each giving a Result."""
        return SnpTry(self)

    init2 = raising(SnpTry.init2)
    launch_start = raising(SnpTry.launch_start)
    launch_update = raising(SnpTry.launch_update)
    launch_finish = raising(SnpTry.launch_finish)
    enable_req_certs = raising(SnpTry.enable_req_certs)

    def populate(
        self,
        gpa: int,
        size: int,
        *,
        source: SourceBuffer | int | None,
        type: int = PageType.NORMAL,  # noqa: A002
    ) -> int:
        """LAUNCH_UPDATE until `size` bytes from `gpa` (bytes) are populated; returns the calls.

        Goes on where the kernel stopped, with the addresses it wrote back. KvmError when a call
        fails: what was populated before it stays so. KernelFault when a call succeeds without
        getting anywhere, which a kernel must not do.
        """
        address = _address(source)
        calls = 0
        while size:
            result = self.try_.launch_update(gpa, size, source=address, type=type)
            calls += 1
            if not result.ok:
                raise KvmError(result)
            before = size
            gpa, address, size = result.written_back or (gpa, address, 0)
            if size >= before:
                raise KernelFault(
                    f"LAUNCH_UPDATE at {gpa:#x} returned 0 and left all {size} bytes to do"
                )
        return calls


def supported_vmsa_features(kvm: Any) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of KVM_X86_SEV_VMSA_FEATURES: the bits INIT2 takes (6.10)."""
    result: Result[int] = kvm.try_.get_device_attr_u64(
        lib.KVM_X86_GRP_SEV, lib.KVM_X86_SEV_VMSA_FEATURES
    )
    return result


def supported_policy_bits(kvm: Any) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of KVM_X86_SNP_POLICY_BITS: the bits LAUNCH_START takes (6.18)."""
    result: Result[int] = kvm.try_.get_device_attr_u64(
        lib.KVM_X86_GRP_SEV, lib.KVM_X86_SNP_POLICY_BITS
    )
    return result


def _address(source: SourceBuffer | int | None) -> int:
    if source is None:
        return 0
    return source if isinstance(source, int) else source.address
