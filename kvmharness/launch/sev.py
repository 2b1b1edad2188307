# SPDX-License-Identifier: MIT
"""The SEV-SNP launch: LAUNCH_START, LAUNCH_UPDATE and LAUNCH_FINISH. KVM_SEV_INIT2 comes first.

One ioctl a method; ``Snp.populate`` is the loop that the kernel's documentation asks for. Facts are
from Documentation/virt/kvm/x86/amd-memory-encryption.rst and arch/x86/kvm/svm/sev.c of 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from kvmharness.errors import KernelFault
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import Buffer, bytes_exactly, bytes_up_to, fd_number, make, make_array
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import KvmError, Result
from kvmharness.launch.many import populate_many
from kvmharness.launch.sev_command import SevCommands, SevCommandTry
from kvmharness.launch.sev_structs import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate
from kvmharness.launch.source import Source, lent

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm


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


#: What the firmware reads of an ID block and of its authentication (SNP firmware ABI, 8.16).
_ID_BLOCK_BYTES = 96
_ID_AUTH_BYTES = 4096


#: What LAUNCH_UPDATE's errors say where the firmware says nothing.
_UPDATE_MEANING = {
    errno.EIO: "KVM could not populate the first page: it is not private, was populated before, "
    "lies past the slot's end, or its source can't be read",
    errno.EINVAL: "before LAUNCH_START, or a size, type, flags or source that is not allowed, or "
    "no guest_memfd slot there",
}


class SnpTry(SevCommandTry):
    """The launch commands of an SNP VM, each giving a Result. Values reach KVM unchecked."""

    def launch_start(
        self, policy: int = DEFAULT_POLICY, *, gosvw: Buffer = b"", flags: int = 0
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_START: create the guest context under `policy` and bind the ASID.

        `gosvw` is at most 16 bytes (guest OS visible workarounds), padded by zeros. EINVAL: a
        second start, flags, policy bits the host does not offer, or bit 17 not one; EIO: the
        firmware refused.
        """
        parameters = SnpLaunchStart(
            policy=policy,
            gosvw=bytes_up_to("gosvw", gosvw, 16).ljust(16, b"\0"),
            flags=flags,
        )
        return self._command("KVM_SEV_SNP_LAUNCH_START", parameters)

    def launch_update(
        self,
        gpa: int,
        size: int,
        *,
        source: Source,
        type: int,  # noqa: A002 (the field's name)
        flags: int = 0,
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_UPDATE: populate `size` bytes from `gpa` (bytes) once.

        `source` is a SourceBuffer, a Mapping, any other buffer, a user address in bytes, or None
        for NULL; `type` a PageType. Of a buffer the kernel gets a copy, padded to whole pages; what
        the firmware corrects in a CPUID page comes back into one that can be written to.

        ``written_back`` is (gpa, source address, size) as the kernel leaves them, all in bytes, of
        a buffer the offset in it for the address: it
        advances them by what it populated, and only when it returns 0. Success with a size left
        is partial progress: the error that stopped it is lost until the next call. `gpa` goes to
        the kernel as a gfn, its lower 12 bits dropped.

        EINVAL: before LAUNCH_START, an unaligned or (7.3) empty size, unknown type, flags, an
        unaligned source (7.0), a NULL source for a type that has contents (7.3), no guest_memfd
        slot. EIO: the firmware refused (``fw_error``), or with ``fw_error`` 0 KVM did: not
        private, populated before, past the slot's end, source not readable.
        """
        with lent(source) as (address, start):
            parameters = SnpLaunchUpdate(
                gfn_start=gpa // PAGE_SIZE, uaddr=address, len=size, type=type, flags=flags
            )
            result = self._command("KVM_SEV_SNP_LAUNCH_UPDATE", parameters, _UPDATE_MEANING)
        written_back = (
            parameters.gfn_start * PAGE_SIZE,
            parameters.uaddr - start,
            parameters.len,
        )
        return result.replaced(written_back=written_back)

    def populate_many(
        self, parts: Iterable[tuple[int, int, Source, int]], flags: int = 0
    ) -> Result[int]:
        """KVM_SEV_SNP_LAUNCH_UPDATE of each part until nothing of it is left, all in one go.

        A part is (gpa, size, source, type), as launch_update() takes them. In order, until a call
        fails: what was populated before stays so. The value is how many calls it took.
        ``written_back`` is how many parts are done, and of the next one what launch_update() has:
        the gpa, the source's address and the bytes left. KernelFault when a call succeeds without
        getting anywhere.
        """
        name = "KVM_SEV_SNP_LAUNCH_UPDATE"
        rows, starts = [], []
        with ExitStack() as stack:
            for gpa, size, source, kind in parts:
                address, start = stack.enter_context(lent(source))
                starts.append(start)
                rows.append(
                    {
                        "gfn_start": gpa // PAGE_SIZE,
                        "uaddr": address,
                        "len": size,
                        "type": kind,
                        "flags": flags,
                    }
                )
            structs = make_array("struct kvm_sev_snp_launch_update", rows)
            order = make(
                "struct kvm_sev_cmd *",
                id=lib.KVM_SEV_SNP_LAUNCH_UPDATE,
                sev_fd=fd_number("sev_fd", self._commands.sev_fd),
            )
            result, done = populate_many(self._commands.vm, name, order, structs, "len")
        at = (0, 0, 0)
        if done < len(rows):
            left = structs[done]
            at = (int(left.gfn_start) * PAGE_SIZE, int(left.uaddr) - starts[done], int(left.len))
        told = result.replaced(fw_error=int(order.error), written_back=(done, *at))
        return self._explained(told, _UPDATE_MEANING)

    def launch_finish(
        self,
        *,
        host_data: Buffer = b"",
        id_block: Buffer | None = None,
        id_auth: Buffer | None = None,
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
        parameters = SnpLaunchFinish(
            **addresses,
            id_block_en=id_block is not None,
            auth_key_en=auth_key_en,
            vcek_disabled=vcek_disabled,
            host_data=bytes_up_to("host_data", host_data, 32).ljust(32, b"\0"),
            flags=flags,
        )
        return self._command("KVM_SEV_SNP_LAUNCH_FINISH", parameters)

    def enable_req_certs(self) -> Result[int]:
        """KVM_SEV_SNP_ENABLE_REQ_CERTS (7.0): have guests' certificate requests exit to userspace.

        EINVAL after a vCPU was created.
        """
        return self._command("KVM_SEV_SNP_ENABLE_REQ_CERTS", None)


class Snp(SevCommands):
    """The launch side of an SNP VM, and KVM_SEV_INIT2 of SEV and SEV-ES ones too."""

    @property
    def try_(self) -> SnpTry:
        """The same commands, each giving a Result."""
        return SnpTry(self)

    launch_start = raising(SnpTry.launch_start)
    launch_update = raising(SnpTry.launch_update)
    populate_many = raising(SnpTry.populate_many)
    launch_finish = raising(SnpTry.launch_finish)
    enable_req_certs = raising(SnpTry.enable_req_certs)

    def populate(
        self,
        gpa: int,
        size: int,
        *,
        source: Source,
        type: int = PageType.NORMAL,  # noqa: A002
    ) -> int:
        """LAUNCH_UPDATE until `size` bytes from `gpa` (bytes) are populated; returns the calls.

        Goes on where the kernel stopped, with the addresses it wrote back. KvmError when a call
        fails: what was populated before it stays so. KernelFault when a call succeeds without
        getting anywhere, which a kernel must not do.
        """
        calls = 0
        with lent(source) as (address, _):
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


def supported_vmsa_features(kvm: Kvm) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of KVM_X86_SEV_VMSA_FEATURES: the bits INIT2 takes (6.10)."""
    return kvm.try_.get_device_attr_u64(lib.KVM_X86_GRP_SEV, lib.KVM_X86_SEV_VMSA_FEATURES)


def supported_policy_bits(kvm: Kvm) -> Result[int]:
    """KVM_GET_DEVICE_ATTR of KVM_X86_SNP_POLICY_BITS: the bits LAUNCH_START takes (6.18)."""
    return kvm.try_.get_device_attr_u64(lib.KVM_X86_GRP_SEV, lib.KVM_X86_SNP_POLICY_BITS)
