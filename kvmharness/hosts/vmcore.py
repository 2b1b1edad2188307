# SPDX-License-Identifier: MIT
"""A guest's memory, kept in a file when its kernel has panicked or hangs: for crash and drgn."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from kvmharness import progress
from kvmharness.errors import HarnessError
from kvmharness.hosts.monitor import Monitor

#: Seconds for writing it: a gigabyte. As an ELF file: of kdump's format drgn takes none that lacks
#: VMCOREINFO inside, and QEMU knows of that only where the guest has told it.
_DEADLINE = 180.0


def write(
    monitor: Monitor, directory: Path, name: str, info: tuple[int, int] | None
) -> Path | None:
    """Have QEMU write a guest's memory below `directory`, and return the file.

    `info`: the guest's physical address of what its kernel tells debuggers (VMCOREINFO), and its
    bytes; they go to a file of the same name and ``.vmcoreinfo``. Where it can't be written that
    is said on stderr, and None returned: that the run failed is what has to be told then.
    """
    where = None
    try:
        # Absolute: QEMU opens it.
        where = Path(
            tempfile.mkdtemp(
                prefix=time.strftime(f"{name}-%Y%m%d-%H%M%S-"), dir=directory.resolve()
            )
        )
        core = where / "vmcore"
        with progress.step(f"writing the guest's memory to {core}"):
            monitor.do("stop", timeout=10)
            monitor.do(
                "dump-guest-memory",
                timeout=_DEADLINE,
                paging=False,
                protocol=f"file:{core}",
                format="elf",
            )
            if info is not None:
                address, size = info
                file = f"{core}.vmcoreinfo"
                monitor.do("pmemsave", timeout=10, val=address, size=size, filename=file)
    except (OSError, HarnessError) as error:
        if where is not None:
            shutil.rmtree(where, ignore_errors=True)
        progress.note(f"the guest's memory can't be kept: {error}")
        return None
    return core
