# SPDX-License-Identifier: MIT
"""/dev/sev: the AMD secure processor's own commands, of the platform and not of one guest.

Facts are from <linux/psp-sev.h> and drivers/crypto/ccp/sev-dev.c of 7.3. Commands that change the
platform (FACTORY_RESET, PEK_GEN, SNP_COMMIT, ...) need the device opened for writing.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import Any

from kvmharness.errors import MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import bytes_exactly, make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, of_type
from kvmharness.launch.firmware import firmware_error_name

DEV_SEV = "/dev/sev"

#: The firmware's largest certificate or report (SEV_FW_BLOB_MAX_SIZE).
BLOB_MAX_SIZE = 0x4000
_VLEK_BYTES = 432


class SevStatus(Struct, kind="sev_user_data_status"):
    """struct sev_user_data_status: SEV's API version, state, build and guests."""

    api_major: int = 0
    api_minor: int = 0
    state: int = 0
    flags: int = 0
    build: int = 0
    guest_count: int = 0


class SnpStatus(Struct, kind="sev_user_data_snp_status"):
    """struct sev_user_data_snp_status: SNP's version, RMP, features and TCB."""

    api_major: int = 0
    api_minor: int = 0
    state: int = 0
    is_rmp_initialized: int = 0
    build_id: int = 0
    mask_chip_id: int = 0
    mask_chip_key: int = 0
    vlek_en: int = 0
    feature_info: int = 0
    rapl_dis: int = 0
    ciphertext_hiding_cap: int = 0
    ciphertext_hiding_en: int = 0
    guest_count: int = 0
    current_tcb_version: int = 0
    reported_tcb_version: int = 0


class SnpConfig(Struct, kind="sev_user_data_snp_config"):
    """struct sev_user_data_snp_config: what attestation reports say."""

    reported_tcb: int = 0
    mask_chip_id: int = 0
    mask_chip_key: int = 0


class SevDeviceTry:
    """The commands of SEV_ISSUE_CMD, each giving a Result; ``fw_error`` is the firmware's code.

    Where a command fills a buffer, ``written_back`` has the length that the firmware gave: with a
    buffer too small that is EIO with INVALID_LEN, and the length it takes.
    """

    def __init__(self, device: SevDevice) -> None:
        self._device = device

    def factory_reset(self) -> Result[int]:
        """SEV_FACTORY_RESET: forget all keys and certificates of the platform."""
        return self._issue("SEV_FACTORY_RESET")

    def platform_status(self) -> Result[SevStatus]:
        """SEV_PLATFORM_STATUS: SEV's firmware version, state and number of guests."""
        status = SevStatus()
        return self._issue("SEV_PLATFORM_STATUS", status.pointer).with_value(status)

    def pek_gen(self) -> Result[int]:
        """SEV_PEK_GEN: make a new platform endorsement key."""
        return self._issue("SEV_PEK_GEN")

    def pek_csr(self, size: int = BLOB_MAX_SIZE) -> Result[bytes]:
        """SEV_PEK_CSR: the signing request of the platform endorsement key."""
        with FencedBuffer(size) as blob:
            request = make("struct sev_user_data_pek_csr *", address=blob.address, length=size)
            result = self._issue("SEV_PEK_CSR", request)
            length = int(request.length)
            result = result.replaced(written_back=(length,))
            return result.with_value(blob.read()[:length])

    def pek_cert_import(self, pek: bytes, oca: bytes) -> Result[int]:
        """SEV_PEK_CERT_IMPORT: the endorsement key's certificate and its owner's authority's."""
        with ExitStack() as stack:
            copies = [stack.enter_context(FencedBuffer(len(blob))) for blob in (pek, oca)]
            copies[0].write(pek)
            copies[1].write(oca)
            certificates = make(
                "struct sev_user_data_pek_cert_import *",
                pek_cert_address=copies[0].address,
                pek_cert_len=len(pek),
                oca_cert_address=copies[1].address,
                oca_cert_len=len(oca),
            )
            return self._issue("SEV_PEK_CERT_IMPORT", certificates)

    def pdh_gen(self) -> Result[int]:
        """SEV_PDH_GEN: make a new platform Diffie-Hellman key."""
        return self._issue("SEV_PDH_GEN")

    def pdh_cert_export(
        self, pdh_size: int = BLOB_MAX_SIZE, chain_size: int = BLOB_MAX_SIZE
    ) -> Result[tuple[bytes, bytes]]:
        """SEV_PDH_CERT_EXPORT: the Diffie-Hellman certificate and the chain that signs it.

        ``written_back`` is the lengths of both.
        """
        with FencedBuffer(pdh_size) as pdh, FencedBuffer(chain_size) as chain:
            request = make(
                "struct sev_user_data_pdh_cert_export *",
                pdh_cert_address=pdh.address,
                pdh_cert_len=pdh_size,
                cert_chain_address=chain.address,
                cert_chain_len=chain_size,
            )
            result = self._issue("SEV_PDH_CERT_EXPORT", request)
            lengths = int(request.pdh_cert_len), int(request.cert_chain_len)
            result = result.replaced(written_back=lengths)
            return result.with_value((pdh.read()[: lengths[0]], chain.read()[: lengths[1]]))

    def get_id2(self, size: int = BLOB_MAX_SIZE) -> Result[bytes]:
        """SEV_GET_ID2: the ids of the sockets' processors, 64 bytes each."""
        with FencedBuffer(size) as blob:
            request = make("struct sev_user_data_get_id2 *", address=blob.address, length=size)
            result = self._issue("SEV_GET_ID2", request)
            length = int(request.length)
            result = result.replaced(written_back=(length,))
            return result.with_value(blob.read()[:length])

    def snp_platform_status(self) -> Result[SnpStatus]:
        """SNP_PLATFORM_STATUS: SNP's firmware version, RMP state, TCB."""
        status = SnpStatus()
        return self._issue("SNP_PLATFORM_STATUS", status.pointer).with_value(status)

    def snp_commit(self) -> Result[int]:
        """SNP_COMMIT: never again accept firmware older than this one."""
        return self._issue("SNP_COMMIT")

    def snp_set_config(self, config: SnpConfig) -> Result[int]:
        """SNP_SET_CONFIG: the TCB that reports give, and what of the chip they hide."""
        return self._issue("SNP_SET_CONFIG", of_type(SnpConfig, config))

    def snp_vlek_load(self, hashstick: bytes, version: int = 0) -> Result[int]:
        """SNP_VLEK_LOAD: a versioned loaded endorsement key, wrapped by AMD: 432 bytes."""
        wrapped = make(
            "struct sev_user_data_snp_wrapped_vlek_hashstick *",
            data=bytes_exactly("hashstick", hashstick, _VLEK_BYTES),
        )
        load = make(
            "struct sev_user_data_snp_vlek_load *",
            len=ffi.sizeof("struct sev_user_data_snp_vlek_load"),
            vlek_wrapped_version=version,
            vlek_wrapped_address=int(ffi.cast("uintptr_t", wrapped)),
        )
        return self._issue("SNP_VLEK_LOAD", load)

    def _issue(self, name: str, data: Any = None) -> Result[int]:
        command = make(
            "struct sev_issue_cmd *",
            cmd=int(getattr(lib, name)),
            data=0 if data is None else int(ffi.cast("uintptr_t", data)),
        )
        result = ioctl.call(
            self._device.fileno(),
            "SEV_ISSUE_CMD",
            command,
            show=command if data is None else data,
            command=name,
            fw_error=lambda: int(command.error),
        )
        named = firmware_error_name(result.fw_error or 0)
        return result.replaced(name=name, fw_error_name=named)


class SevDevice(OwnedFd):
    """/dev/sev: KVM takes its fd with every launch command, and it has commands of its own."""

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

    @property
    def try_(self) -> SevDeviceTry:
        """The same commands, each giving a Result."""
        return SevDeviceTry(self)

    factory_reset = raising(SevDeviceTry.factory_reset)
    platform_status = raising(SevDeviceTry.platform_status)
    pek_gen = raising(SevDeviceTry.pek_gen)
    pek_csr = raising(SevDeviceTry.pek_csr)
    pek_cert_import = raising(SevDeviceTry.pek_cert_import)
    pdh_gen = raising(SevDeviceTry.pdh_gen)
    pdh_cert_export = raising(SevDeviceTry.pdh_cert_export)
    get_id2 = raising(SevDeviceTry.get_id2)
    snp_platform_status = raising(SevDeviceTry.snp_platform_status)
    snp_commit = raising(SevDeviceTry.snp_commit)
    snp_set_config = raising(SevDeviceTry.snp_set_config)
    snp_vlek_load = raising(SevDeviceTry.snp_vlek_load)
