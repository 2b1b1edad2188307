# SPDX-License-Identifier: MIT
"""The launch of SEV and SEV-ES guests, whose memory is encrypted in place; SNP's is in sev.py.

LAUNCH_START, LAUNCH_UPDATE_DATA of each range, for SEV-ES LAUNCH_UPDATE_VMSA, LAUNCH_MEASURE, a
LAUNCH_SECRET if the owner sends one, LAUNCH_FINISH. Facts are from
Documentation/virt/kvm/x86/amd-memory-encryption.rst and arch/x86/kvm/svm/sev.c of 7.3.
"""

from __future__ import annotations

from contextlib import ExitStack
from enum import IntEnum, IntFlag

from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.fields import Buffer, any_bytes, bytes_exactly
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import Mapping
from kvmharness.kvm.result import KvmError, Result
from kvmharness.launch import sev_structs as structs
from kvmharness.launch.sev_command import SevCommands, SevCommandTry
from kvmharness.launch.source import SourceBuffer, memory_address
from kvmharness.record import Record


class SevPolicy(IntFlag):
    """Bits of the guest policy (SEV API, chapter 3); the minimal API version is in 16 to 31."""

    NO_DEBUG = 1 << 0
    NO_KEY_SHARING = 1 << 1
    ES = 1 << 2
    NO_SEND = 1 << 3
    DOMAIN = 1 << 4
    SEV = 1 << 5


class SevState(IntEnum):
    """The state of a guest, as KVM_SEV_GUEST_STATUS gives it (enum sev_state)."""

    UNINIT = 0
    LAUNCH_UPDATE = 1
    LAUNCH_SECRET = 2
    RUNNING = 3
    RECEIVE_UPDATE = 4
    SEND_UPDATE = 5


class GuestStatus(Record, frozen=True):
    """What the firmware says of a guest; `state` is a SevState where it has a name."""

    handle: int
    policy: int
    state: int


Memory = SourceBuffer | Mapping | int


class SevTry(SevCommandTry):
    """The launch commands of SEV and SEV-ES, each giving a Result. Values reach KVM unchecked."""

    def init(self) -> Result[int]:
        """KVM_SEV_INIT: make a default VM a SEV one; the old form of init2."""
        return self._command("KVM_SEV_INIT", None)

    def es_init(self) -> Result[int]:
        """KVM_SEV_ES_INIT: make a default VM a SEV-ES one; the old form of init2."""
        return self._command("KVM_SEV_ES_INIT", None)

    def launch_start(
        self, policy: int = 0, *, handle: int = 0, dh_cert: Buffer = b"", session: Buffer = b""
    ) -> Result[int]:
        """KVM_SEV_LAUNCH_START: make the guest's key under `policy`; the value is the handle.

        `handle` is that of a guest to share the key with, 0 for none. `dh_cert` and `session` are
        the guest owner's, for a secret to be sent.
        """
        with ExitStack() as stack:
            addresses: dict[str, int] = {}
            for name, blob in (("dh", dh_cert), ("session", session)):
                copy = stack.enter_context(_fenced(name, blob))
                if copy.size:
                    addresses |= {f"{name}_uaddr": copy.address, f"{name}_len": copy.size}
            parameters = structs.SevLaunchStart(handle=handle, policy=policy, **addresses)
            result = self._command("KVM_SEV_LAUNCH_START", parameters)
            return result.with_value(parameters.handle)

    def launch_update_data(self, memory: Memory, size: int) -> Result[int]:
        """KVM_SEV_LAUNCH_UPDATE_DATA: encrypt and measure `size` bytes of guest memory in place.

        `memory` is where this process has it mapped, in a region that memory_encrypt_region
        registered. EINVAL: not a multiple of 16 bytes.
        """
        address = memory_address(memory)
        parameters = structs.SevLaunchUpdateData(uaddr=address, len=size)
        return self._command("KVM_SEV_LAUNCH_UPDATE_DATA", parameters)

    def launch_update_vmsa(self) -> Result[int]:
        """KVM_SEV_LAUNCH_UPDATE_VMSA: encrypt and measure the registers of all vCPUs (SEV-ES)."""
        return self._command("KVM_SEV_LAUNCH_UPDATE_VMSA", None)

    def launch_measure(self, size: int = 0) -> Result[bytes]:
        """KVM_SEV_LAUNCH_MEASURE: the measurement, of `size` bytes as the firmware has it.

        ``written_back`` is the length it has: with size 0 the call fails with EIO and
        INVALID_LEN, and that is what it tells. ``Sev.measure`` makes both calls.
        """
        with FencedBuffer(size) as blob:
            parameters = structs.SevLaunchMeasure(uaddr=blob.address if size else 0, len=size)
            result = self._command("KVM_SEV_LAUNCH_MEASURE", parameters)
            length = parameters.len
            result = result.replaced(written_back=(length,))
            return result.with_value(blob.read()[:length])

    def launch_secret(
        self, header: Buffer, packet: Buffer, memory: Memory, size: int
    ) -> Result[int]:
        """KVM_SEV_LAUNCH_SECRET: put the owner's secret into `size` bytes of guest memory.

        `header` and `packet` are what the owner sent: the secret, encrypted for this launch.
        """
        address = memory_address(memory)
        with _fenced("header", header) as header_copy, _fenced("packet", packet) as packet_copy:
            parameters = structs.SevLaunchSecret(
                hdr_uaddr=header_copy.address,
                hdr_len=header_copy.size,
                guest_uaddr=address,
                guest_len=size,
                trans_uaddr=packet_copy.address,
                trans_len=packet_copy.size,
            )
            return self._command("KVM_SEV_LAUNCH_SECRET", parameters)

    def launch_finish(self) -> Result[int]:
        """KVM_SEV_LAUNCH_FINISH: the guest may run."""
        return self._command("KVM_SEV_LAUNCH_FINISH", None)

    def guest_status(self) -> Result[GuestStatus]:
        """KVM_SEV_GUEST_STATUS: the firmware's handle, policy and state of the guest."""
        status = structs.SevGuestStatus()
        result = self._command("KVM_SEV_GUEST_STATUS", status)
        state = status.state
        known = SevState(state) if state in set(SevState) else state
        return result.with_value(GuestStatus(status.handle, status.policy, known))

    def attestation_report(self, nonce: Buffer = bytes(16), size: int = 0) -> Result[bytes]:
        """KVM_SEV_GET_ATTESTATION_REPORT (5.13): the report, with `nonce` (16 bytes) in it.

        `size` and ``written_back`` are as in launch_measure; ``Sev.report`` makes both calls.
        """
        with FencedBuffer(size) as blob:
            parameters = structs.SevAttestationReport(
                mnonce=bytes_exactly("nonce", nonce, 16),
                uaddr=blob.address if size else 0,
                len=size,
            )
            result = self._command("KVM_SEV_GET_ATTESTATION_REPORT", parameters)
            length = parameters.len
            result = result.replaced(written_back=(length,))
            return result.with_value(blob.read()[:length])

    def dbg_decrypt(self, memory: Memory, size: int) -> Result[bytes]:
        """KVM_SEV_DBG_DECRYPT: `size` bytes of guest memory in the clear, if the policy allows."""
        address = memory_address(memory)
        with FencedBuffer(size) as clear:
            parameters = structs.SevDbg(src_uaddr=address, dst_uaddr=clear.address, len=size)
            result = self._command("KVM_SEV_DBG_DECRYPT", parameters)
            return result.with_value(clear.read())

    def dbg_encrypt(self, memory: Memory, data: Buffer) -> Result[int]:
        """KVM_SEV_DBG_ENCRYPT: write `data` into guest memory, encrypted, if the policy allows."""
        address = memory_address(memory)
        with _fenced("data", data) as clear:
            parameters = structs.SevDbg(src_uaddr=clear.address, dst_uaddr=address, len=clear.size)
            return self._command("KVM_SEV_DBG_ENCRYPT", parameters)


class Sev(SevCommands):
    """The launch side of a SEV or SEV-ES VM; `sev_fd` is the number of an open /dev/sev."""

    @property
    def try_(self) -> SevTry:
        """The same commands, each giving a Result."""
        return SevTry(self)

    init = raising(SevTry.init)
    es_init = raising(SevTry.es_init)
    launch_start = raising(SevTry.launch_start)
    launch_update_data = raising(SevTry.launch_update_data)
    launch_update_vmsa = raising(SevTry.launch_update_vmsa)
    launch_measure = raising(SevTry.launch_measure)
    launch_secret = raising(SevTry.launch_secret)
    launch_finish = raising(SevTry.launch_finish)
    guest_status = raising(SevTry.guest_status)
    attestation_report = raising(SevTry.attestation_report)
    dbg_decrypt = raising(SevTry.dbg_decrypt)
    dbg_encrypt = raising(SevTry.dbg_encrypt)

    def measure(self) -> bytes:
        """LAUNCH_MEASURE, asked for its length and then for itself: measurement and nonce."""
        return self.launch_measure(_length(self.try_.launch_measure()))

    def report(self, nonce: Buffer = bytes(16)) -> bytes:
        """GET_ATTESTATION_REPORT, asked for its length and then for itself."""
        return self.attestation_report(nonce, _length(self.try_.attestation_report(nonce)))


def _length(asked: Result[bytes]) -> int:
    """Return the length that a call with size 0 told, which it does by failing."""
    length = (asked.written_back or (0,))[0]
    if not length:
        raise KvmError(asked)
    return length


def _fenced(name: str, data: Buffer) -> FencedBuffer:
    """Copy `data` to where the kernel can read it and nothing behind it."""
    given = any_bytes(name, data)
    buffer = FencedBuffer(len(given))
    buffer.write(given)
    return buffer
