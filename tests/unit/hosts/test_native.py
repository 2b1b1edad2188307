# SPDX-License-Identifier: MIT
"""The native host: what the kernel said while a command ran."""

from __future__ import annotations

import os

import pytest

from kvmharness.hosts.native import NativeHost
from kvmharness.kernel_log.log import KernelLog


def test_a_run_has_what_the_kernel_said_meanwhile() -> None:
    log = KernelLog.open()
    if log is None or not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("the kernel's log can't be read and written by this user")
    log.close()
    # The command is killed and can't tell itself.
    says = "echo 'kvmharness: begin x' >/dev/kmsg; echo 'kvmharness: test: y' >/dev/kmsg"
    run = NativeHost().run(["sh", "-c", f"{says}; kill -KILL $$"], timeout=60)
    assert run.status == 137
    assert "kvmharness: test: y" in [line.text for line in run.kernel_log_since("x")]
    assert run.kernel_log_since("x")[0].text != "kvmharness: begin x"


def test_a_run_where_the_log_can_not_be_read_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelLog, "open", classmethod(lambda cls: None))
    run = NativeHost().run(["true"], timeout=60)
    assert run.kernel_log is None
    assert run.kernel_log_since("x") == []
