# SPDX-License-Identifier: MIT
"""The QEMU that emulated hosts run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field

from kvmharness import process, progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import packages, toolroot

#: EPYC-v4, the processor model used, came with QEMU 8.1.
OLDEST = (8, 1)


@dataclass(frozen=True)
class Qemu:
    """A QEMU for x86_64: how to start it and which version it is."""

    argv: tuple[str, ...]
    version: str
    environment: dict[str, str] = field(default_factory=dict)


def find() -> Qemu:
    """Return the QEMU to use: ``$KVMHARNESS_QEMU``, else Debian's in the cache, fetched if needed.

    The cached one is the same on every machine, needs no root and touches no installed package.
    Where it can't be fetched, a QEMU of the machine's own that is new enough serves. Raises
    MissingCapability.
    """
    chosen = os.environ.get("KVMHARNESS_QEMU")
    if chosen:
        return _own(chosen)
    try:
        root = toolroot.tool_root(
            "qemu", ["qemu-system-x86"], packages.TOOLS_SUITE, keep=_needed, recipe="1"
        )
    except packages.PackageUnavailable as failure:
        installed = shutil.which("qemu-system-x86_64")
        if installed is None:
            raise MissingCapability("QEMU", str(failure)) from failure
        progress.note(f"{failure}; using {installed}")
        return _own(installed)
    data = ["-L", f"{root.path}/usr/share/qemu", "-L", f"{root.path}/usr/share/seabios"]
    return Qemu(
        argv=(*root.argv("usr/bin/qemu-system-x86_64"), *data),
        version=re.sub(r"^\d+:|\+.*", "", root.versions["qemu-system-x86"]),
        environment={"QEMU_MODULE_DIR": f"{root.path}/usr/lib/x86_64-linux-gnu/qemu"},
    )


def _needed(path: str) -> bool:
    return not path.startswith(("var/", "usr/share/doc", "usr/share/man", "usr/share/locale"))


def _own(program: str) -> Qemu:
    try:
        shown = process.run([program, "--version"], timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingCapability("QEMU", f"{program} can't be run: {error}") from error
    found = re.search(r"version (\d+)\.(\d+)\S*", shown)
    if found is None:
        raise MissingCapability("QEMU", f"{program} --version tells no version")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise MissingCapability("QEMU", f"{program} is {found[0]}; 8.1 or newer is needed")
    return Qemu((program,), found[0].removeprefix("version "))
