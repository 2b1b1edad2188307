# SPDX-License-Identifier: MIT
"""What a guest is to do, told once its modules are loaded: by then every run on a host is the same.

vm_images/emulated_host/init reads a line with the bytes that follow, and sources those.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence

from kvmharness.hosts.virtual_machine import Share

#: What init reads when the command may begin.
GO = b"go\n"


def orders(shares: Sequence[Share], script: str, *, interactive: bool) -> bytes:
    """Return what init reads. `shares`: the writable ones; `script`: what the guest's shell runs.

    `interactive`: the script has the console for its terminal.
    """
    plan = {
        "SHARES": "\n".join(f"{share.tag} {share.inside}" for share in shares),
        "INTERACTIVE": "1" if interactive else "0",
        # That of a guest that was stopped for days would be as it was.
        "NOW": f"{time.time():.0f}",
        "COMMAND": script,
    }
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in plan.items())
    data = os.fsencode(text)
    return f"{len(data)}\n".encode() + data
