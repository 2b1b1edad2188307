# SPDX-License-Identifier: MIT
"""The virtual machine that an emulated host is, and QEMU's command line for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmharness.hosts.qemu import Qemu

#: What comes out of the guest: its serial console, then virtio-serial ports nr 1 to 4: what init
#: tells, the output of the command, and of those that run after it.
CHANNELS = ("console", "control", "stdout", "stderr", "after")
#: What goes into the guest: port nr 5, which init reads.
ORDERS = "orders"


@dataclass(frozen=True)
class Share:
    """A directory of the caller's machine given to the guest over 9p.

    `path` is the directory, `inside` where the guest has it.
    """

    tag: str
    path: Path
    inside: Path
    readonly: bool = False


@dataclass(frozen=True)
class VirtualMachine:
    """All that QEMU is told, but for where the initramfs is and where the output goes."""

    qemu: Qemu
    kernel: Path
    append: str  # the kernel's command line
    cpu: str
    smp: int
    memory: int  # MiB
    shares: Sequence[Share]

    def same(self) -> list[str]:
        """Return what its command line does not tell of what it is: versions of files."""
        status = self.kernel.stat()
        return [self.qemu.version, str(status.st_mtime_ns), str(status.st_size)]

    def argv(
        self,
        initramfs: str | Path,
        channels: Mapping[str, str],
        monitor: int | None = None,
        incoming: str | None = None,
    ) -> list[str]:
        """Return QEMU's argv.

        `channels`: by name, the backend of each of CHANNELS and of ORDERS: ``stdio``, ``null`` or
        ``file,path=/dev/fd/N``. `monitor`: the fd of a socket that QEMU's monitor is to have.
        `incoming`: the file of a snapshot to go on from.
        """
        argv = [*self.qemu.argv, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-machine", "q35,accel=tcg,usb=off,smm=off,vmport=off,i8042=off,hpet=off"]
        argv += ["-cpu", self.cpu, "-smp", str(self.smp), "-m", f"{self.memory}M"]
        argv += ["-kernel", str(self.kernel), "-initrd", str(initramfs), "-append", self.append]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"]
        # Another id at each start has a guest that goes on from a snapshot draw other random bytes.
        argv += ["-device", "vmgenid,guid=auto"]
        console, *ports = (*CHANNELS, ORDERS)
        argv += ["-chardev", f"{channels[console]},id={console}", "-serial", f"chardev:{console}"]
        argv += ["-device", "virtio-serial-pci"]
        for number, port in enumerate(ports, start=1):
            argv += ["-chardev", f"{channels[port]},id={port}"]
            argv += ["-device", f"virtserialport,chardev={port},nr={number}"]
        if monitor is not None:
            argv += ["-chardev", f"socket,fd={monitor},id=monitor"]
            argv += ["-mon", "chardev=monitor,mode=control"]
        if incoming is not None:
            argv += ["-incoming", f"file:{incoming}"]
        for share in self.shares:
            given = f"local,path={option(share.path)},mount_tag={share.tag}"
            given += ",security_model=none,multidevs=remap"
            argv += ["-virtfs", given + (",readonly=on" if share.readonly else "")]
        return argv


def option(path: Path) -> str:
    """Return a path as the value of one of QEMU's options: a comma is written twice there."""
    return str(path).replace(",", ",,")
