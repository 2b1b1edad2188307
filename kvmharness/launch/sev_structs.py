# SPDX-License-Identifier: MIT
"""What SEV's launch commands take, as typed structs; the methods of Snp and Sev make them.

For ``Snp.try_.command(number, struct)`` with values that a method has no argument for.
"""

from __future__ import annotations

from kvmharness.kvm.structs import Struct


class SevInit(Struct, kind="kvm_sev_init"):
    """struct kvm_sev_init (KVM_SEV_INIT2)."""

    vmsa_features: int = 0
    flags: int = 0
    ghcb_version: int = 0


class SnpLaunchStart(Struct, kind="kvm_sev_snp_launch_start"):
    """struct kvm_sev_snp_launch_start: `gosvw` is 16 bytes."""

    policy: int = 0
    gosvw: bytes = b""
    flags: int = 0


class SnpLaunchUpdate(Struct, kind="kvm_sev_snp_launch_update"):
    """struct kvm_sev_snp_launch_update: `uaddr` and `len` in bytes."""

    gfn_start: int = 0
    uaddr: int = 0
    len: int = 0
    type: int = 0
    flags: int = 0


class SnpLaunchFinish(Struct, kind="kvm_sev_snp_launch_finish"):
    """struct kvm_sev_snp_launch_finish: `host_data` is 32 bytes."""

    id_block_uaddr: int = 0
    id_auth_uaddr: int = 0
    id_block_en: int = 0
    auth_key_en: int = 0
    vcek_disabled: int = 0
    host_data: bytes = b""
    flags: int = 0


class SevLaunchStart(Struct, kind="kvm_sev_launch_start"):
    """struct kvm_sev_launch_start."""

    handle: int = 0
    policy: int = 0
    dh_uaddr: int = 0
    dh_len: int = 0
    session_uaddr: int = 0
    session_len: int = 0


class SevLaunchUpdateData(Struct, kind="kvm_sev_launch_update_data"):
    """struct kvm_sev_launch_update_data."""

    uaddr: int = 0
    len: int = 0


class SevLaunchMeasure(Struct, kind="kvm_sev_launch_measure"):
    """struct kvm_sev_launch_measure."""

    uaddr: int = 0
    len: int = 0


class SevLaunchSecret(Struct, kind="kvm_sev_launch_secret"):
    """struct kvm_sev_launch_secret."""

    hdr_uaddr: int = 0
    hdr_len: int = 0
    guest_uaddr: int = 0
    guest_len: int = 0
    trans_uaddr: int = 0
    trans_len: int = 0


class SevGuestStatus(Struct, kind="kvm_sev_guest_status"):
    """struct kvm_sev_guest_status."""

    handle: int = 0
    policy: int = 0
    state: int = 0


class SevDbg(Struct, kind="kvm_sev_dbg"):
    """struct kvm_sev_dbg."""

    src_uaddr: int = 0
    dst_uaddr: int = 0
    len: int = 0


class SevAttestationReport(Struct, kind="kvm_sev_attestation_report"):
    """struct kvm_sev_attestation_report: `mnonce` is 16 bytes."""

    mnonce: bytes = b""
    uaddr: int = 0
    len: int = 0


class SevSendStart(Struct, kind="kvm_sev_send_start"):
    """struct kvm_sev_send_start."""

    policy: int = 0
    pdh_cert_uaddr: int = 0
    pdh_cert_len: int = 0
    plat_certs_uaddr: int = 0
    plat_certs_len: int = 0
    amd_certs_uaddr: int = 0
    amd_certs_len: int = 0
    session_uaddr: int = 0
    session_len: int = 0


class SevSendUpdateData(Struct, kind="kvm_sev_send_update_data"):
    """struct kvm_sev_send_update_data."""

    hdr_uaddr: int = 0
    hdr_len: int = 0
    guest_uaddr: int = 0
    guest_len: int = 0
    trans_uaddr: int = 0
    trans_len: int = 0


class SevReceiveStart(Struct, kind="kvm_sev_receive_start"):
    """struct kvm_sev_receive_start."""

    handle: int = 0
    policy: int = 0
    pdh_uaddr: int = 0
    pdh_len: int = 0
    session_uaddr: int = 0
    session_len: int = 0


class SevReceiveUpdateData(Struct, kind="kvm_sev_receive_update_data"):
    """struct kvm_sev_receive_update_data."""

    hdr_uaddr: int = 0
    hdr_len: int = 0
    guest_uaddr: int = 0
    guest_len: int = 0
    trans_uaddr: int = 0
    trans_len: int = 0
