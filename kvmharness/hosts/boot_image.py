# SPDX-License-Identifier: MIT
"""What an emulated host boots into: its initial RAM file system, and the command it is to run.

vm_images/emulated_host/init is the first process; it finds its modules here, is told the rest by
and by (orders.py), and runs the command in the caller's root.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvmharness.host_kinds import EmulatedKind
from kvmharness.hosts.after import script as after_script
from kvmharness.hosts.initramfs import Initramfs
from kvmharness.hosts.suitable import ROOT_MODULES
from kvmharness.kernels.kernels import Kernel
from kvmharness.resources import images_dir

#: The programs that init calls.
_APPLETS = (
    *("sh", "cat", "chroot", "date", "dd", "hostname", "ifconfig", "insmod", "kill", "ln", "mkdir"),
    *("mkfifo", "mount", "poweroff", "printf", "setsid", "sleep", "stty", "usleep", "uname"),
)


def boot_image(
    kind: EmulatedKind,
    modules: Mapping[str, Path],
    busybox: Path,
    *,
    module_options: Mapping[str, str],
) -> bytes:
    """Return the archive: the same for every run on the same host.

    `modules`: by name, in load order. `module_options`: module name to options beyond the kind's
    own.
    """
    archive = Initramfs()
    for directory in ("dev", "proc", "sys", "lower", "above", "host", "tmp"):
        archive.directory(directory)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in _APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.file("init", (images_dir() / "emulated_host" / "init").read_bytes(), 0o755)
    for name, path in modules.items():
        archive.file(f"modules/{name}.ko", path.read_bytes())
    plan = {
        "MODULES": "\n".join(_loads(modules, kind.options, module_options)),
        "NAME": kind.name,
    }
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in plan.items())
    archive.file("plan", _encoded(text))
    return archive.to_bytes()


def load_order(kind: EmulatedKind, kernel: Kernel, built: Mapping[str, Path]) -> dict[str, Path]:
    """Return the modules to load, by name in load order; those in `built` are not the kernel's."""
    order: dict[str, Path] = {}
    for name in (*kind.modules, *ROOT_MODULES):
        if name in built:
            order[name] = built[name]
            continue
        for each in kernel.load_order([name]):
            path = kernel.module(each)
            assert path is not None
            order.setdefault(each, path)
    return order


def command_script(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, after: Sequence[str] = ()
) -> str:
    """Return the shell script that the guest runs: environment, directory, command.

    `after`: commands for the shell that run once that has ended; the status is the command's.
    """
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(env.items())
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    ]
    lines.append(f"cd {shlex.quote(str(cwd))} || exit 126")
    if not after:
        lines.append(f"exec {shlex.join(argv)}")
        return "\n".join(lines) + "\n"
    lines += [shlex.join(argv), "status=$?"]
    return "\n".join(lines) + "\n" + after_script(after, "/dev/vport0p4") + "exit $status\n"


def _loads(names: Iterable[str], *options: Mapping[str, str]) -> list[str]:
    """Return the plan's line for each module: its file, then its options."""
    return [
        " ".join([f"{name}.ko", *(given[name] for given in options if given.get(name))])
        for name in names
    ]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
