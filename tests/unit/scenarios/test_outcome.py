# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno

import pytest

from kvmharness.kvm.result import Result
from kvmharness.scenarios.engine import classify
from kvmharness.scenarios.outcome import call_text, update_text

PAGE = 4096


def update(number: int, *written_back: int, fw_error: int = 0) -> Result[int]:
    return Result(
        "KVM_SEV_SNP_LAUNCH_UPDATE",
        -1 if number else 0,
        number,
        fw_error=fw_error,
        fw_error_name="INVALID_PARAM" if fw_error else "",
        written_back=written_back,
    )


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (update(0, 4 * PAGE, 0x10000 + 4 * PAGE, 0), "ok +4"),
        (update(0, 2 * PAGE, 0x10000 + 2 * PAGE, 2 * PAGE), "ok +2 left 2"),
        (update(errno.EIO, 0, 0x10000, 4 * PAGE), "EIO"),
        (update(errno.EIO, 0, 0x10000, 4 * PAGE, fw_error=0x16), "EIO fw=INVALID_PARAM"),
        # A kernel that does not say what it did, each in its own way.
        (update(0, 4 * PAGE, 0x10000, 0), "ok +4 source +0x0"),
        (update(0, 4 * PAGE, 0x10000 + 4 * PAGE, PAGE), "ok +4 left 1 size -0x3000"),
        (update(errno.EIO, PAGE, 0x10000, 3 * PAGE), "EIO gpa +0x1000 source +0x0"),
    ],
)
def test_what_is_ordinary_is_short_and_what_is_not_is_spelt_out(
    result: Result[int], text: str
) -> None:
    assert update_text(result, (0, 0x10000, 4 * PAGE), moves_source=True) == text


def test_zero_pages_leave_the_source_address() -> None:
    stays = update(0, 4 * PAGE, 0x10000, 0)
    assert update_text(stays, (0, 0x10000, 4 * PAGE), moves_source=False) == "ok +4"


def test_a_call_without_write_back() -> None:
    assert call_text(Result("KVM_CREATE_VCPU", -1, errno.EINVAL)) == "EINVAL"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "WARNING: CPU: 0 PID: 77 at virt/kvm/guest_memfd.c:1 sev_gmem_post_populate+0x1/0x2",
            ["WARNING sev_gmem_post_populate"],
        ),
        (
            "WARNING: arch/x86/kvm/svm/sev.c:2387 at sev_gmem_post_populate+0x23c/0x290 [kvm_amd], "
            "CPU#0: pytest/77",
            ["WARNING sev_gmem_post_populate"],
        ),
        ("WARNING: x.c:1 at snp_launch_update.constprop.0+0x1/0x2", ["WARNING snp_launch_update"]),
        (
            "BUG: unable to handle page fault for address: 0",
            ["BUG unable to handle page fault for address"],
        ),
        ("SEV-SNP: Leaking PFN range 0x1-0x2", ["RMP SEV-SNP: Leaking"]),
        ("kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)", []),
    ],
)
def test_kernel_log_lines_are_reduced_to_what_can_be_promised(line: str, found: list[str]) -> None:
    assert classify([line]) == found
