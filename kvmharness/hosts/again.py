# SPDX-License-Identifier: MIT
"""What a failed run leaves in the cache, so that the same machine can be booted again by hand.

``failed/TIME-.../`` there holds the initramfs, copies of the shared directories, the console's text
and ``again``, the command; of the newest runs only. The kernel and QEMU are in the cache anyway.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import HarnessError
from kvmharness.hosts.host import Again
from kvmharness.hosts.orders import GO
from kvmharness.hosts.supervise import CRASHES
from kvmharness.hosts.virtual_machine import CHANNELS, ORDERS, Share, VirtualMachine, option
from kvmharness.kernels import cache

#: How many failed runs are kept, the newest; one takes about 9 MB. A suite whose tests crash boots
#: this often (supervise.py), and each command that its report shows has to work.
KEPT = CRASHES + 1
#: A shared directory of more bytes than this is not copied but shared as it is then.
_LARGEST_SHARE = 16 << 20
_STDOUT = "file,path=/dev/stdout"
#: QEMU opens what it is to write to anew. Of a pipe that is the same pipe, where a file that the
#: output was sent to would have two writers, each at a place of its own.
_INTO_ONE = " 2>&1 | cat"


def keep(
    machine: VirtualMachine, initramfs: bytes, orders: bytes, console: str, *, interactive: bool
) -> Again | None:
    """Keep what a run was made of, and return the shell command that boots it again.

    Its terminal gets the guest's console, what init tells and the command's output. Returns None
    where the cache takes nothing more, and says so on stderr: that the run failed is what has to
    be told then.
    """
    try:
        with cache.locked("failed"):
            directory = _new_directory(cache.cache_dir() / "failed")
            (directory / "initramfs").write_bytes(initramfs)
            (directory / "console").write_text(console, encoding="utf-8")
            shares = [_kept_share(share, directory) for share in machine.shares]
            (directory / "orders").write_bytes(orders + GO)
            argv = replace(machine, shares=shares).argv(
                directory / "initramfs", _channels(interactive, directory / "orders")
            )
            command = shell_command(argv, machine.qemu.environment)
            file = directory / "again"
            # With more for QEMU, if it is given any: -s -S lets gdb attach.
            file.write_text(f'#!/bin/sh\n{command} "$@"{_INTO_ONE}\n', encoding="utf-8")
            file.chmod(0o700)
    except (OSError, HarnessError) as error:
        progress.note(f"what failed can't be kept to boot it again: {error}")
        return None
    return Again(command + _INTO_ONE, file)


def _new_directory(root: Path) -> Path:
    """Make one, after removing the oldest of those there are too many of."""
    root.mkdir(exist_ok=True)
    kept = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for old in kept[: -(KEPT - 1)]:
        shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=root))


def _kept_share(share: Share, directory: Path) -> Share:
    """Return a share that will be as it is now: the suite's goes with the run, a user's changes."""
    if share.readonly or cache.size_of(share.path) > _LARGEST_SHARE:
        return share
    copy = directory / share.tag
    try:
        shutil.copytree(share.path, copy, symlinks=True)
    except shutil.Error:  # a socket, say
        shutil.rmtree(copy, ignore_errors=True)
        return share
    return replace(share, path=copy)


def _channels(interactive: bool, orders: Path) -> dict[str, str]:
    """Return where the output goes: all of it to the terminal that the command is pasted into."""
    told = f"file,path=/dev/null,input-path={option(orders)}"
    if interactive:
        console, command = "stdio,signal=off", "null"
    else:
        console, command = "stdio", _STDOUT  # Ctrl-C ends QEMU
    outputs = {"console": console, "control": _STDOUT}
    return {**outputs, **dict.fromkeys(CHANNELS[2:], command), ORDERS: told}


def shell_command(argv: Iterable[str], environment: Mapping[str, str]) -> str:
    """Return a command line for a shell: quoted, an option a line, ready to paste."""
    lines = [[f"{name}={shlex.quote(value)}" for name, value in environment.items()]]
    for word in argv:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(words) for words in lines if words)
