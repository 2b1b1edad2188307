# SPDX-License-Identifier: MIT
"""Runs inside an emulated host: tests during which the kernel finds bugs in itself.

test_splats.py has them run, and says what must become of each. KVMHARNESS_SPLATS is splats.ko.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SPLAT = Path("/proc/kvmharness_splat")
_FINIT_MODULE = 313  # x86-64


@pytest.fixture(scope="session", autouse=True)
def module() -> None:
    """Load the module, with a taint that the kernel had before it."""
    if not _SPLAT.exists():
        with open(os.environ["KVMHARNESS_SPLATS"], "rb") as file:
            assert not ctypes.CDLL(None, use_errno=True).syscall(
                _FINIT_MODULE, file.fileno(), b"", 0
            ), os.strerror(ctypes.get_errno())


def plant(name: str) -> None:
    """Have the kernel find a bug while this process is in it."""
    _SPLAT.write_text(name)


def plant_in_child(name: str) -> None:
    """The same in a child, which an oops may kill."""
    argv = [sys.executable, "-c", f"open({str(_SPLAT)!r}, 'w').write({name!r})"]
    subprocess.run(argv, check=False)


@pytest.mark.scenario("planted.nothing")
def test_nothing() -> None:
    Path("/dev/kmsg").write_text("<4>nothing to see here\n")


@pytest.mark.scenario("planted.expected")
@pytest.mark.expects_log("^WARNING splat_warn$")
def test_expected() -> None:
    plant("warn")


@pytest.mark.scenario("planted.in_this_process")
@pytest.mark.parametrize("name", ["warn", "error", "refcount", "ubsan", "atomic"])
def test_in_this_process(name: str) -> None:
    # WARN_ONCE and the like warn again.
    Path("/sys/kernel/debug/clear_warn_once").write_text("1")
    plant(name)


@pytest.mark.scenario("planted.in_a_child")
@pytest.mark.parametrize("name", ["bug", "null", "gpf", "list"])
def test_in_a_child(name: str) -> None:
    plant_in_child(name)


@pytest.mark.scenario("planted.written_by_root")
def test_written_by_root() -> None:
    Path("/dev/kmsg").write_text("<3>watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n")


@pytest.mark.scenario("planted.that_an_oops_kills")
def test_that_an_oops_kills() -> None:
    plant("bug")


@pytest.mark.scenario("planted.that_hangs")
def test_that_hangs() -> None:
    plant("hang")


@pytest.mark.scenario("planted.that_a_panic_ends")
def test_that_a_panic_ends() -> None:
    Path("/proc/sysrq-trigger").write_text("c")
