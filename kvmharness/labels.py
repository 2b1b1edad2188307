# SPDX-License-Identifier: MIT
"""What a result is worth: the host it was seen on, its kernel, and whether that was emulated."""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Set by an emulated host for everything that runs inside it: its kind, such as ``emulated-snp``.
HOST_VARIABLE = "KVMHARNESS_HOST"
NATIVE = "native"

#: The modules that stand in for silicon: where one is loaded nothing is native, whatever is said.
_STAND_INS = {"snp_standin": "emulated-snp", "tdx_standin": "emulated-tdx"}


@dataclass(frozen=True)
class HostLabel:
    """Where something ran. `kind` is ``native`` or an emulated host's; `kernel` its release."""

    kind: str
    kernel: str

    @property
    def emulated(self) -> bool:
        """Whether a stand-in took the hardware's place. Whatever is not known native, is not."""
        return self.kind != NATIVE

    @property
    def words(self) -> str:
        """Say it in a sentence's part: ``native host, Linux 6.18`` or with the warning."""
        if self.emulated:
            return f"{self.kind} host, Linux {self.kernel}: emulated, not a hardware result"
        return f"native host, Linux {self.kernel}: not emulated"


def current() -> HostLabel:
    """Return the label of the host this process runs on."""
    kind = os.environ.get(HOST_VARIABLE) or NATIVE
    if kind == NATIVE:
        loaded = (k for module, k in _STAND_INS.items() if os.path.exists(f"/sys/module/{module}"))
        kind = next(loaded, NATIVE)
    return HostLabel(kind, os.uname().release)
