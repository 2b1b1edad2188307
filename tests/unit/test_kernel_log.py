# SPDX-License-Identifier: MIT
"""Reading /dev/kmsg: records, what counts as a kernel bug, and doing without permission."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmharness.kernel_log import KernelLine, KernelLog, parse


def test_a_record_is_parsed() -> None:
    line = parse(b"6,1034,5140900,-;kvm: disabled by bios\n SUBSYSTEM=pci\n DEVICE=+pci:0\n")
    assert line == KernelLine(6, 5.1409, "kvm: disabled by bios")
    assert str(line) == "[    5.140900] kvm: disabled by bios"


def test_the_facility_is_not_part_of_the_level() -> None:
    # 30 is facility 3 (daemon), level 6: what userspace wrote.
    assert parse(b"30,1,2000000,-;systemd: hello\n").level == 6


@pytest.mark.parametrize(
    ("text", "splat"),
    [
        ("WARNING: CPU: 1 PID: 77 at arch/x86/kvm/svm/sev.c:2312 sev_gmem_post_populate", True),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", True),
        ("BUG: KASAN: slab-use-after-free in kvm_gmem_release", True),
        ("Oops: general protection fault, probably for non-canonical address", True),
        ("kvm: SEV-SNP supported", False),
        ("debugfs: duplicate directory", False),
    ],
)
def test_a_splat_is_known(text: str, splat: bool) -> None:
    assert KernelLine(4, 0.0, text).splat is splat


def test_no_log_where_it_can_not_be_read(tmp_path: Path) -> None:
    assert KernelLog.open(str(tmp_path / "absent")) is None
    folder = os.fspath(tmp_path)
    assert KernelLog.open(folder) is None


def test_new_lines_are_those_since_the_mark() -> None:
    log = KernelLog.open()
    if log is None or not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("the kernel's log can't be read and written by this user")

    def say(text: str) -> None:
        Path("/dev/kmsg").write_text(text)

    say("kvmharness test: before\n")
    log.mark()
    say("kvmharness test: one\n")
    say("kvmharness test: two\n")
    texts = [line.text for line in log.new_lines() if "kvmharness test" in line.text]
    assert texts == ["kvmharness test: one", "kvmharness test: two"]
    assert not [line for line in log.new_lines() if "kvmharness test" in line.text]
    log.close()
