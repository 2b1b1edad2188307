# SPDX-License-Identifier: MIT
"""One start of an emulated host: QEMU as a child, its output followed to the end.

Nothing outlives it: the kernel kills QEMU with us, and what QEMU is given is in a memory file
(memfd) and pipes, not in files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kvmharness import process
from kvmharness.hosts.monitor import Monitor
from kvmharness.hosts.orders import GO
from kvmharness.hosts.snapshot import Snapshot
from kvmharness.hosts.virtual_machine import CHANNELS, ORDERS, VirtualMachine
from kvmharness.hosts.watch import Watch

#: Where x86-64 has modules (Documentation/arch/x86/x86_64/mm.rst): behind the kernel's image, for
#: which half a GiB is set aside at least, up to the fixed mappings.
_MODULES = (0xFFFF_FFFF_A000_0000, 0xFFFF_FFFF_FF00_0000)


def start(
    machine: VirtualMachine,
    initramfs: bytes,
    orders: bytes,
    watch: Watch,
    *,
    interactive: bool,
    block_log: int | None = None,
    make: Snapshot | None = None,
    restore: int | None = None,
    keep_vmcore: Callable[[Monitor], None] | None = None,
) -> None:
    """Run `machine` until it ends or `watch` gives up.

    `interactive`: the guest's console is our terminal, and `watch` reads only what init tells.
    `block_log`: a file (its fd) that takes the code of the guest's modules as it first runs.
    `orders`: what it is told once its modules are loaded. `make`: the snapshot to make then;
    `restore`: the fd of one to go on from. `keep_vmcore` is called with QEMU's
    monitor when the guest did not end by itself, while it is still there.
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
        told = owned.enter_context(_pipe(len(orders) + len(GO)))
        pipes = {name: owned.enter_context(_pipe()) for name in read}
        channels |= {name: f"file,path=/dev/fd/{pipe.write}" for name, pipe in pipes.items()}
        channels[ORDERS] = f"file,path=/dev/null,input-path=/dev/fd/{told.read}"
        incoming = None if restore is None else f"/dev/fd/{restore}"
        ours, theirs = socket.socketpair()
        monitor = Monitor(ours)
        owned.enter_context(ours)
        owned.enter_context(theirs)
        argv = machine.argv(f"/dev/fd/{archive}", channels, theirs.fileno(), incoming)
        passed = [archive, told.read, theirs.fileno(), *(pipe.write for pipe in pipes.values())]
        if restore is not None:
            passed.append(restore)
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
        told.close_read()
        for pipe in pipes.values():
            pipe.close_write()
        assert child.stderr is not None
        sources = {name: pipe.read for name, pipe in pipes.items()}

        def loaded() -> None:
            if make is not None:
                make.make(monitor)

        watch.follow(
            child,
            {**sources, "qemu": child.stderr.fileno()},
            told.write,
            orders,
            loaded if restore is None else None,
        )
        if keep_vmcore is not None and watch.lost and child.poll() is None:
            keep_vmcore(monitor)


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
def _pipe(size: int = 0) -> Iterator[_Pipe]:
    """A pipe that takes `size` bytes at once."""
    pipe = _Pipe(*os.pipe2(os.O_CLOEXEC))
    try:
        if size > fcntl.fcntl(pipe.read, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(pipe.read, fcntl.F_SETPIPE_SZ, size)
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
