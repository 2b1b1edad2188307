# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno

import pytest

from kvmharness.errors import (
    HarnessError,
    InaccessibleMemory,
    MissingCapability,
    RunTimeout,
    UsageError,
    errno_name,
)
from kvmharness.kvm.result import KvmError, Result, describe


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "ok"),
        (errno.EINVAL, "EINVAL"),
        (errno.EAGAIN, "EAGAIN"),
        (errno.EOPNOTSUPP, "EOPNOTSUPP"),
        (errno.EDEADLK, "EDEADLK"),
        (133, "EHWPOISON"),
        (9999, "9999"),
    ],
)
def test_errnos_have_the_kernels_names(number: int, name: str) -> None:
    assert errno_name(number) == name


def test_an_error_says_which_call_what_and_why() -> None:
    error = KvmError(Result("KVM_X", -1, errno.EINVAL))
    assert str(error).startswith("KVM_X failed: EINVAL (KVM refused an argument")
    assert error.errno == errno.EINVAL
    assert error.fw_error is None
    assert error.result.name == "KVM_X"
    assert isinstance(error, OSError)
    assert isinstance(error, HarnessError)


def test_an_errno_without_a_meaning_of_its_own_gets_the_systems() -> None:
    assert describe(Result("mmap", -1, errno.ENOMEM)) == (
        "mmap failed: ENOMEM (Cannot allocate memory)"
    )


def test_what_the_call_knows_about_its_errors_comes_first() -> None:
    result: Result[int] = Result("KVM_X", -1, errno.EIO, meaning="the page was populated before")
    assert describe(result) == "KVM_X failed: EIO (the page was populated before)"


@pytest.mark.parametrize(
    ("fw_error", "name", "text"),
    [
        (0, "", ", with no firmware error"),
        (0x16, "", "0x16"),
        (0x16, "INVALID_PARAM", "INVALID_PARAM"),
    ],
)
def test_the_firmwares_code_is_part_of_it(fw_error: int, name: str, text: str) -> None:
    error = KvmError(Result("KVM_X", -1, errno.EIO, fw_error=fw_error, fw_error_name=name))
    assert str(error).endswith(text)
    assert error.fw_error == fw_error


def test_os_error_subclasses_are_not_taken() -> None:
    """OSError(2, ..) becomes FileNotFoundError; a KvmError stays one, whatever its errno."""
    error = KvmError(Result("KVM_X", -1, errno.ENOENT))
    assert type(error) is KvmError
    with pytest.raises(KvmError):
        raise error


def test_a_missing_capability_is_its_name_and_reason() -> None:
    missing = MissingCapability("VM type snp", "kvm_amd.sev_snp is off")
    assert (missing.what, missing.reason) == ("VM type snp", "kvm_amd.sev_snp is off")
    assert str(missing) == "VM type snp: kvm_amd.sev_snp is off"


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ("SIGBUS", "no memory the host may touch"),
        ("SIGSEGV", "nothing is mapped"),
        ("SIGX", "fault"),
    ],
)
def test_inaccessible_memory_says_where_and_how_far(signal: str, why: str) -> None:
    error = InaccessibleMemory("read", 0x7000, 4096, signal, 2)
    assert (error.address, error.copied, error.signal_name, error.code) == (0x7000, 4096, signal, 2)
    assert str(error).startswith(f"read at 0x7000: {signal} after 4096 bytes")
    assert why in str(error)


@pytest.mark.parametrize("kind", [UsageError, RunTimeout, MissingCapability, InaccessibleMemory])
def test_every_error_can_be_caught_as_one(kind: type[Exception]) -> None:
    assert issubclass(kind, HarnessError)
