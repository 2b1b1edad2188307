# SPDX-License-Identifier: MIT
"""Entering the build root, from a chroot too: nothing is built, and no mount is left outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kvmharness.kernels import modulebuild

DEADLINE = 60  # seconds for what takes none

#: Makes two roots of the machine's own /usr, one inside the other, and enters the inner one out of
#: the outer one, in a mount namespace whose mounts are all shared, as systemd makes them. Prints
#: what was said inside, and what the entering left mounted outside.
ENTER_OUT_OF_A_CHROOT = """\
set -e
cd "$1"
for root in outer outer/inner; do
    mkdir -p $root/usr $root/proc $root/dev
    touch $root/dev/null
    for link in bin sbin lib lib64; do ln -s usr/$link $root/$link; done
    mount --rbind /usr $root/usr
done
mount --bind /dev/null outer/dev/null
$3
mount --make-rshared /
before=$(cat /proc/self/mountinfo)
chroot outer unshare --mount --propagation unchanged sh -c "$2" sh /inner \
    sh -c 'test -c /dev/null && test -d /proc/self && echo entered'
[ "$before" = "$(cat /proc/self/mountinfo)" ] || echo "left behind"
"""


def enter_out_of_a_chroot(directory: Path, prepare: str) -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode != 0:
        pytest.skip("takes root and a mount namespace of its own")
    script = ENTER_OUT_OF_A_CHROOT.replace("$3", prepare)
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(directory), modulebuild._ENTER]
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_a_root_is_entered_out_of_a_chroot(tmp_path: Path) -> None:
    done = enter_out_of_a_chroot(tmp_path, "mount -t proc proc outer/proc")
    assert (done.stdout, done.returncode) == ("entered\n", 0), done.stderr


def test_where_nothing_can_be_mounted_unseen_it_says_so(tmp_path: Path) -> None:
    done = enter_out_of_a_chroot(tmp_path, "")
    assert done.returncode == 1
    assert "error: neither / nor /proc is a mount point here" in done.stderr
