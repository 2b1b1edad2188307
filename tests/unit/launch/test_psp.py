# SPDX-License-Identifier: MIT
"""What each command of /dev/sev puts into its struct, and what comes back; the driver is fake."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.result import KvmError
from kvmharness.launch.psp import SevDevice, SevStatus, SnpConfig, SnpStatus

SEV_FD = 1004  # no fd of this process: it reaches the fake driver alone


class FakeDriver:
    """Answers SEV_ISSUE_CMD by a function of the command; keeps its number."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], int] = lambda command: 0
        self.numbers: list[int] = []

    def issue(self, fd: int, request: int, argument: Any) -> int:
        assert (fd, request) == (SEV_FD, lib.SEV_ISSUE_CMD)
        self.numbers.append(int(argument.cmd))
        return self.answer(argument)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(ioctl, "_issue", fake.issue)
    return fake


@pytest.fixture
def device(driver: FakeDriver) -> Iterator[SevDevice]:
    made = SevDevice(SEV_FD)
    yield made
    made._fd = -1


def data_of(command: Any, struct: str) -> Any:
    return ffi.cast(f"struct {struct} *", command.data)


def memory_at(address: int, size: int) -> bytes:
    return bytes(ffi.buffer(ffi.cast("char *", address), size))


@pytest.mark.parametrize("name", ["SEV_FACTORY_RESET", "SEV_PEK_GEN", "SEV_PDH_GEN", "SNP_COMMIT"])
def test_commands_without_a_struct(driver: FakeDriver, device: SevDevice, name: str) -> None:
    seen: list[int] = []

    def answer(command: Any) -> int:
        seen.append(int(command.data))
        command.error = lib.SEV_RET_INVALID_PLATFORM_STATE
        return -errno.EIO

    driver.answer = answer
    method = getattr(device.try_, name.removeprefix("SEV_").lower())
    result = method()
    assert (driver.numbers, seen) == ([getattr(lib, name)], [0])
    assert (result.name, result.errno_name) == (name, "EIO")
    assert result.fw_error_name == "INVALID_PLATFORM_STATE"
    with pytest.raises(KvmError, match=f"{name} failed: EIO.*INVALID_PLATFORM_STATE"):
        getattr(device, name.removeprefix("SEV_").lower())()


def test_statuses_are_structs(driver: FakeDriver, device: SevDevice) -> None:
    def sev(command: Any) -> int:
        status = data_of(command, "sev_user_data_status")
        status.api_major, status.build, status.guest_count = 1, 55, 2**32 - 1
        return 0

    def snp(command: Any) -> int:
        status = data_of(command, "sev_user_data_snp_status")
        status.api_major, status.is_rmp_initialized, status.vlek_en = 1, 1, 1
        status.reported_tcb_version = 2**63
        return 0

    driver.answer = sev
    assert device.platform_status() == SevStatus(api_major=1, build=55, guest_count=2**32 - 1)
    driver.answer = snp
    assert device.snp_platform_status() == SnpStatus(
        api_major=1, is_rmp_initialized=1, vlek_en=1, reported_tcb_version=2**63
    )
    assert driver.numbers == [lib.SEV_PLATFORM_STATUS, lib.SNP_PLATFORM_STATUS]


@pytest.mark.parametrize(
    ("method", "struct"),
    [("pek_csr", "sev_user_data_pek_csr"), ("get_id2", "sev_user_data_get_id2")],
)
def test_a_blob_has_the_length_the_firmware_gives(
    driver: FakeDriver, device: SevDevice, method: str, struct: str
) -> None:
    def answer(command: Any) -> int:
        data = data_of(command, struct)
        if data.length < 128:
            data.length = 128
            command.error = lib.SEV_RET_INVALID_LEN
            return -errno.EIO
        ffi.memmove(ffi.cast("char *", data.address), b"i" * 128, 128)
        data.length = 128
        return 0

    driver.answer = answer
    assert getattr(device, method)() == b"i" * 128
    result = getattr(device.try_, method)(64)
    assert (result.value, result.written_back) == (None, (128,))
    assert result.fw_error_name == "INVALID_LEN"


def test_the_diffie_hellman_key_comes_with_its_chain(driver: FakeDriver, device: SevDevice) -> None:
    def answer(command: Any) -> int:
        data = data_of(command, "sev_user_data_pdh_cert_export")
        assert (data.pdh_cert_len, data.cert_chain_len) == (0x100, 0x200)
        ffi.memmove(ffi.cast("char *", data.pdh_cert_address), b"pdh", 3)
        ffi.memmove(ffi.cast("char *", data.cert_chain_address), b"chain", 5)
        data.pdh_cert_len, data.cert_chain_len = 3, 5
        return 0

    driver.answer = answer
    result = device.try_.pdh_cert_export(0x100, 0x200)
    assert (result.value, result.written_back) == ((b"pdh", b"chain"), (3, 5))


def test_certificates_are_imported(driver: FakeDriver, device: SevDevice) -> None:
    seen: list[bytes] = []

    def answer(command: Any) -> int:
        data = data_of(command, "sev_user_data_pek_cert_import")
        seen.append(memory_at(data.pek_cert_address, data.pek_cert_len))
        seen.append(memory_at(data.oca_cert_address, data.oca_cert_len))
        return 0

    driver.answer = answer
    device.pek_cert_import(b"p" * 5000, b"o")
    assert seen == [b"p" * 5000, b"o"]


def test_the_configuration_and_a_loaded_key(driver: FakeDriver, device: SevDevice) -> None:
    seen: list[Any] = []

    def config(command: Any) -> int:
        data = data_of(command, "sev_user_data_snp_config")
        seen.append((data.reported_tcb, data.mask_chip_id, data.mask_chip_key))
        return 0

    def load(command: Any) -> int:
        data = data_of(command, "sev_user_data_snp_vlek_load")
        seen.append((data.len, data.vlek_wrapped_version))
        seen.append(memory_at(data.vlek_wrapped_address, 432))
        return 0

    driver.answer = config
    device.snp_set_config(SnpConfig(reported_tcb=2**63, mask_chip_key=1))
    driver.answer = load
    device.snp_vlek_load(b"v" * 432, version=1)
    assert seen == [(2**63, 0, 1), (16, 1), b"v" * 432]
    with pytest.raises(ValueError, match="hashstick has to be 432 bytes; 431 were given"):
        device.snp_vlek_load(bytes(431))
    with pytest.raises(TypeError, match="a SnpConfig is required, not SnpStatus"):
        device.snp_set_config(SnpStatus())  # type: ignore[arg-type]


def test_a_bit_field_holds_its_bits() -> None:
    config = SnpConfig()
    with pytest.raises(OverflowError, match=r"sev_user_data_snp_config\.mask_chip_id: "):
        config.mask_chip_id = 2


def test_a_trace_names_the_command(driver: FakeDriver, device: SevDevice) -> None:
    with ioctl.recording() as entries:
        device.snp_platform_status()
    assert entries[0]["ioctl"] == "SEV_ISSUE_CMD SNP_PLATFORM_STATUS"
    assert "api_major" in entries[0]["after"]


def test_what_is_not_there_is_missing() -> None:
    with pytest.raises(MissingCapability, match="/nonexistent/sev: the ccp driver"):
        SevDevice.open("/nonexistent/sev")
