# SPDX-License-Identifier: MIT
"""ci/fresh with a debootstrap that only pretends: what it says, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "ci" / "fresh"
DEADLINE = 60  # seconds for what takes one or two


def namespaces() -> bool:
    """Whether this machine gives what ci/fresh cleans up with; a chroot does not."""
    argv = ["unshare", "--mount", "--pid", "--fork", "true"]
    return os.geteuid() == 0 and subprocess.run(argv, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not namespaces(), reason="takes root, and namespaces made from a root that is a mount point"
)


class Pretended:
    """A debootstrap, first in PATH, that does what `script` says; $3 is the directory to fill."""

    def __init__(self, directory: Path, script: str) -> None:
        self.work = directory / "work"
        for name in ("work", "bin", "scripts"):
            (directory / name).mkdir()
        (directory / "scripts" / "trixie").touch()
        program = directory / "bin" / "debootstrap"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "DEBOOTSTRAP_DIR": str(directory),
            "TMPDIR": str(self.work),
            "KVMHARNESS_DEBIAN_MIRROR": "http://mirror.invalid/debian",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPT, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_a_reason_is_given_in_one_line(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, "echo I: Retrieving; echo E: no such mirror; exit 1")
    with pretended.start() as fresh:
        said, complaint = fresh.communicate(timeout=DEADLINE)
    assert said == "== making trixie from http://mirror.invalid/debian\n"
    assert complaint.splitlines()[-1] == (
        "ci/fresh: debootstrap could not make trixie: E: no such mirror"
    )
    assert fresh.returncode == 4
    assert list(pretended.work.iterdir()) == []


def test_what_runs_inside_can_be_interrupted(tmp_path: Path) -> None:
    """Started in the background, where a shell has SIGINT ignored; tests inside send it."""
    with Pretended(tmp_path, "grep SigIgn /proc/self/status; exit 1").start() as fresh:
        _, complaint = fresh.communicate(timeout=DEADLINE)
    ignored = int(complaint.rpartition("SigIgn:")[2], 16)
    assert ignored & 1 << (signal.SIGINT - 1) == 0


def test_an_unknown_suite_is_a_usage_error(tmp_path: Path) -> None:
    with Pretended(tmp_path, "exit 1").start("potato") as fresh:
        _, complaint = fresh.communicate(timeout=DEADLINE)
    assert fresh.returncode == 2
    assert "debootstrap knows no suite potato" in complaint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_one_that_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    # A mount, a process of its own session, and files that come while others are removed.
    pretended = Pretended(
        tmp_path,
        'mkdir -p "$3/proc"; mount -t proc proc "$3/proc"; setsid sleep 300 & touch "$3/ready"\n'
        'while : >"$3/$((i += 1))"; do :; done',
    )
    mounts = Path("/proc/self/mountinfo").read_text()
    fresh = pretended.start()
    give_up = time.monotonic() + DEADLINE
    while not list(pretended.work.glob("*/root/ready")):
        assert time.monotonic() < give_up, fresh.poll()
        time.sleep(0.02)
    inside = psutil.Process(fresh.pid).children(recursive=True)
    fresh.send_signal(number)
    fresh.wait(DEADLINE)
    _, alive = psutil.wait_procs(inside, timeout=20)
    for process in alive:
        process.kill()
    fresh.communicate(timeout=DEADLINE)
    assert alive == []
    assert len(inside) >= 3  # unshare, ci/fresh and debootstrap at least
    assert Path("/proc/self/mountinfo").read_text() == mounts
    if number != signal.SIGKILL:  # after which a shell can remove nothing
        assert fresh.returncode == 128 + number
        assert list(pretended.work.iterdir()) == []
