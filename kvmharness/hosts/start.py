# SPDX-License-Identifier: MIT
"""One start of an emulated host: QEMU as a child, its output followed to the end.

Nothing outlives it: the kernel kills QEMU with us, and what QEMU is given is in a memory file
(memfd) and pipes, not in files.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kvmharness import process
from kvmharness.hosts.virtual_machine import CHANNELS, ORDERS, VirtualMachine
from kvmharness.hosts.watch import Watch

#: Where x86-64 has modules (Documentation/arch/x86/x86_64/mm.rst): behind the kernel's image, for
#: which half a GiB is set aside at least, up to the fixed mappings.
_MODULES = (0xFFFF_FFFF_A000_0000, 0xFFFF_FFFF_FF00_0000)


def start(
    machine: VirtualMachine,
    initramfs: bytes,
    watch: Watch,
    *,
    interactive: bool,
    block_log: int | None = None,
    keep_vmcore: Callable[[socket.socket], None] | None = None,
) -> None:
    """Run `machine` until it ends or `watch` gives up.

    `interactive`: the guest's console is our terminal, and `watch` reads only what init tells.
    `block_log`: a file (its fd) that takes the code of the guest's modules as it first runs.
    `keep_vmcore` is called with the connection to QEMU's monitor when the guest did not end by
    itself, while it is still there.
    """
    read: tuple[str, ...]
    options: dict[str, Any]
    if interactive:
        read = ("control",)
        channels = {"console": "stdio,signal=off"} | dict.fromkeys(CHANNELS[2:], "null")
        options = {"foreground": True}
    else:
        read = CHANNELS
        channels = {}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with contextlib.ExitStack() as owned:
        archive = owned.enter_context(_memory_file("initramfs", initramfs))
        orders = owned.enter_context(_pipe())
        pipes = {name: owned.enter_context(_pipe()) for name in read}
        channels |= {name: f"file,path=/dev/fd/{pipe.write}" for name, pipe in pipes.items()}
        channels[ORDERS] = f"file,path=/dev/null,input-path=/dev/fd/{orders.read}"
        ours, theirs = socket.socketpair()
        owned.enter_context(ours)
        owned.enter_context(theirs)
        argv = machine.argv(f"/dev/fd/{archive}", channels, theirs.fileno())
        passed = [archive, orders.read, theirs.fileno(), *(pipe.write for pipe in pipes.values())]
        if block_log is not None:
            argv += _logging(block_log)
            passed.append(block_log)
        child = owned.enter_context(
            process.child(
                argv,
                stderr=subprocess.PIPE,
                env={**os.environ, **machine.qemu.environment},
                pass_fds=passed,
                **options,
            )
        )
        theirs.close()
        orders.close_read()
        for pipe in pipes.values():
            pipe.close_write()
        assert child.stderr is not None
        sources = {name: pipe.read for name, pipe in pipes.items()}
        watch.follow(child, {**sources, "qemu": child.stderr.fileno()}, orders.write)
        if keep_vmcore is not None and watch.lost and child.poll() is None:
            keep_vmcore(ours)


def _logging(fd: int) -> list[str]:
    """Return QEMU's options that have it tell the code of modules as it translates it, once."""
    begin, end = _MODULES
    return ["-d", "in_asm", "-dfilter", f"{begin:#x}+{end - begin:#x}", "-D", f"/dev/fd/{fd}"]


@dataclass
class _Pipe:
    read: int
    write: int

    def close_read(self) -> None:
        os.close(self.read)
        self.read = -1

    def close_write(self) -> None:
        os.close(self.write)
        self.write = -1


@contextlib.contextmanager
def _pipe() -> Iterator[_Pipe]:
    pipe = _Pipe(*os.pipe2(os.O_CLOEXEC))
    try:
        yield pipe
    finally:
        for fd in (pipe.read, pipe.write):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _memory_file(name: str, data: bytes) -> Iterator[int]:
    """A file that is nowhere, and goes with its last user."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd
    finally:
        os.close(fd)
