# SPDX-License-Identifier: MIT
"""What each SEV and SEV-ES command puts into its struct, and what comes back; KVM is a fake."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, map_memory
from kvmharness.kvm.result import KvmError
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.sev_es import GuestStatus, Sev, SevPolicy, SevState
from kvmharness.launch.sev_structs import SevGuestStatus

VM_FD = 1002  # no fd of this process: it reaches the fake KVM alone
INVALID_LEN = lib.SEV_RET_INVALID_LEN
STRUCTS = {
    lib.KVM_SEV_LAUNCH_START: "kvm_sev_launch_start",
    lib.KVM_SEV_LAUNCH_UPDATE_DATA: "kvm_sev_launch_update_data",
    lib.KVM_SEV_LAUNCH_MEASURE: "kvm_sev_launch_measure",
    lib.KVM_SEV_LAUNCH_SECRET: "kvm_sev_launch_secret",
    lib.KVM_SEV_GUEST_STATUS: "kvm_sev_guest_status",
    lib.KVM_SEV_GET_ATTESTATION_REPORT: "kvm_sev_attestation_report",
    lib.KVM_SEV_DBG_DECRYPT: "kvm_sev_dbg",
    lib.KVM_SEV_DBG_ENCRYPT: "kvm_sev_dbg",
}


class FakeSev:
    """Answers by a function of the command and what its data points to; keeps the commands."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, Any], int] = lambda command, data: 0
        self.commands: list[tuple[int, int]] = []  # id, sev_fd
        self.seen: list[Any] = []

    def issue(self, fd: int, request: int, argument: Any) -> int:
        assert (fd, request) == (VM_FD, lib.KVM_MEMORY_ENCRYPT_OP)
        self.commands.append((int(argument.id), int(argument.sev_fd)))
        struct = STRUCTS.get(argument.id)
        if struct is None:
            assert argument.data == 0
            return self.answer(argument, None)
        data = ffi.cast(f"struct {struct} *", argument.data)
        self.seen.append(ioctl.decode(data))
        return self.answer(argument, data)


@pytest.fixture
def kvm(monkeypatch: pytest.MonkeyPatch) -> FakeSev:
    fake = FakeSev()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def sev(kvm: FakeSev) -> Iterator[Sev]:
    vm = Vm(VM_FD, 12288, VmType.SEV)
    yield Sev(vm, 77)
    vm._fd = -1


def memory_at(address: int, size: int) -> bytes:
    return bytes(ffi.buffer(ffi.cast("char *", address), size))


@pytest.mark.parametrize(
    ("method", "command"),
    [
        ("init", "KVM_SEV_INIT"),
        ("es_init", "KVM_SEV_ES_INIT"),
        ("launch_update_vmsa", "KVM_SEV_LAUNCH_UPDATE_VMSA"),
        ("launch_finish", "KVM_SEV_LAUNCH_FINISH"),
    ],
)
def test_commands_without_a_struct(kvm: FakeSev, sev: Sev, method: str, command: str) -> None:
    getattr(sev, method)()
    assert kvm.commands == [(getattr(lib, command), 77)]

    def refuse(command: Any, data: Any) -> int:
        command.error = lib.SEV_RET_INVALID_GUEST_STATE
        return -errno.EIO

    kvm.answer = refuse
    with pytest.raises(KvmError, match=f"{command} failed: EIO.*INVALID_GUEST_STATE"):
        getattr(sev, method)()


def test_start_gives_the_handle(kvm: FakeSev, sev: Sev) -> None:
    blobs: list[bytes] = []

    def start(command: Any, data: Any) -> int:
        blobs.append(memory_at(data.dh_uaddr, data.dh_len))
        blobs.append(memory_at(data.session_uaddr, data.session_len))
        data.handle = 9
        return 0

    kvm.answer = start
    policy = SevPolicy.ES | SevPolicy.NO_DEBUG
    assert sev.launch_start(policy, handle=3, dh_cert=b"cert", session=b"x" * 5000) == 9
    assert blobs == [b"cert", b"x" * 5000]
    assert (kvm.seen[0]["policy"], kvm.seen[0]["handle"]) == (5, 3)
    kvm.answer = lambda command, data: 0
    sev.launch_start()
    assert (kvm.seen[1]["dh_uaddr"], kvm.seen[1]["session_len"]) == (0, 0)


def test_data_is_an_address_and_a_size(kvm: FakeSev, sev: Sev) -> None:
    with map_memory(4096, flags=MAP_PRIVATE | MAP_ANONYMOUS) as mapping:
        sev.launch_update_data(mapping, 4096)
        sev.launch_update_data(0x10, 1 << 31)
        address = mapping.address
    assert kvm.seen == [{"uaddr": address, "len": 4096}, {"uaddr": 0x10, "len": 1 << 31}]
    with pytest.raises(OverflowError, match=r"kvm_sev_launch_update_data\.len"):
        sev.launch_update_data(0, 1 << 32)


@pytest.mark.parametrize(
    ("loop", "command"),
    [
        (lambda sev: sev.measure(), lib.KVM_SEV_LAUNCH_MEASURE),
        (lambda sev: sev.report(b"n" * 16), lib.KVM_SEV_GET_ATTESTATION_REPORT),
    ],
    ids=["measure", "report"],
)
def test_a_blob_is_asked_for_its_length_first(
    kvm: FakeSev, sev: Sev, loop: Callable[[Sev], bytes], command: int
) -> None:
    def answer(command: Any, data: Any) -> int:
        if data.len < 48:
            data.len = 48
            command.error = INVALID_LEN
            return -errno.EIO
        ffi.memmove(ffi.cast("char *", data.uaddr), b"m" * 48, 48)
        return 0

    kvm.answer = answer
    assert loop(sev) == b"m" * 48
    assert [number for number, _ in kvm.commands] == [command] * 2
    assert [seen["len"] for seen in kvm.seen] == [0, 48]
    assert kvm.seen[0]["uaddr"] == 0
    if "mnonce" in kvm.seen[0]:
        assert kvm.seen[1]["mnonce"] == (b"n" * 16).hex()
    kvm.answer = lambda command, data: -errno.ENOTTY
    with pytest.raises(KvmError, match="ENOTTY"):
        loop(sev)


def test_one_call_says_the_length(kvm: FakeSev, sev: Sev) -> None:
    def answer(command: Any, data: Any) -> int:
        data.len = 48
        command.error = INVALID_LEN
        return -errno.EIO

    kvm.answer = answer
    result = sev.try_.launch_measure(8)
    assert (result.errno_name, result.fw_error_name) == ("EIO", "INVALID_LEN")
    assert (result.written_back, result.value) == ((48,), None)
    with pytest.raises(ValueError, match="nonce has to be 16 bytes; 15 were given"):
        sev.attestation_report(bytes(15))


def test_a_secret_has_three_parts(kvm: FakeSev, sev: Sev) -> None:
    seen: list[Any] = []

    def answer(command: Any, data: Any) -> int:
        seen.append(memory_at(data.hdr_uaddr, data.hdr_len))
        seen.append(memory_at(data.trans_uaddr, data.trans_len))
        seen.append((data.guest_uaddr, data.guest_len))
        return 0

    kvm.answer = answer
    sev.launch_secret(b"header", b"packet" * 1000, 0x5000, 64)
    assert seen == [b"header", b"packet" * 1000, (0x5000, 64)]


@pytest.mark.parametrize(("number", "state"), [(1, SevState.LAUNCH_UPDATE), (99, 99)])
def test_the_state_of_a_guest(kvm: FakeSev, sev: Sev, number: int, state: int) -> None:
    def answer(command: Any, data: Any) -> int:
        data.handle, data.policy, data.state = 5, 2**32 - 1, number
        return 0

    kvm.answer = answer
    assert sev.guest_status() == GuestStatus(5, 2**32 - 1, state)


def test_debugging_goes_through_buffers_of_its_own(kvm: FakeSev, sev: Sev) -> None:
    def decrypt(command: Any, data: Any) -> int:
        ffi.memmove(ffi.cast("char *", data.dst_uaddr), b"c" * data.len, data.len)
        return 0

    kvm.answer = decrypt
    assert sev.dbg_decrypt(0x5000, 5000) == b"c" * 5000
    assert (kvm.seen[0]["src_uaddr"], kvm.seen[0]["len"]) == (0x5000, 5000)
    clear: list[bytes] = []

    def encrypt(command: Any, data: Any) -> int:
        clear.append(memory_at(data.src_uaddr, data.len))
        return 0

    kvm.answer = encrypt
    sev.dbg_encrypt(0x6000, b"secret")
    assert clear == [b"secret"]
    assert kvm.seen[1]["dst_uaddr"] == 0x6000


def test_a_command_takes_its_own_struct_alone(kvm: FakeSev, sev: Sev) -> None:
    with pytest.raises(TypeError, match="a SevDbg is required, not SevGuestStatus"):
        sev.try_.command(lib.KVM_SEV_DBG_DECRYPT, SevGuestStatus())
    assert not kvm.commands
