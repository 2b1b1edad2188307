# SPDX-License-Identifier: MIT
"""The programs of docs/findings.md: each still shows its bug, on a host of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.resources import checkout_dir

#: Seconds for a boot and the program, on a busy machine.
_BOOT = 150.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled as the list would compile it."""
    top = checkout_dir()
    compiler = shutil.which("cc")
    if top is None or compiler is None:
        pytest.skip("it takes a checkout and a C compiler")
    built = tmp_path_factory.mktemp("findings") / "snp_leak_twice"
    source = top / "docs" / "findings" / "snp_leak_twice.c"
    argv = [compiler, "-Wall", "-Wextra", "-Werror", "-o", str(built), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return built


def test_without_a_stand_in_the_program_says_so(program: Path) -> None:
    if Path("/dev/sev").exists():
        pytest.skip("this machine has a secure processor")
    done = subprocess.run(
        [str(program), "finish"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.deadline(_BOOT)
@pytest.mark.parametrize("how", ["update", "finish"])
def test_a_page_that_is_leaked_twice_is_a_kernel_bug(program: Path, how: str) -> None:
    """Until a kernel has the fix: then this fails, and the finding goes into the contract."""
    try:
        host = EmulatedHost.prepare("emulated-snp")
    except MissingCapability as missing:
        pytest.skip(str(missing))
    result = host.run([str(program), how], timeout=60)
    said = result.console + result.stdout.decode() + result.console_tail
    assert "the kernel survived" not in said
    assert "kernel BUG at lib/list_debug.c" in said, said[-2000:]
