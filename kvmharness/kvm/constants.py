# SPDX-License-Identifier: MIT
"""The kernel's numbers by their names, each an int to a type checker: ``constants.KVM_EXIT_HLT``.

All that the binding knows of <linux/kvm.h>, <asm/kvm.h> and <linux/psp-sev.h>; ``dir()`` lists
them. Flags and states that go together are enums, in ``flags`` and beside the calls that take them,
capabilities are ``caps.Cap``, and what an exit says is in its class (``exits``). To a type checker
any name is one of these: a misspelt one is an AttributeError.
"""

from __future__ import annotations

from kvmharness.kvm.ffi import lib


def __getattr__(name: str) -> int:
    value = getattr(lib, name, None) if name.isupper() or name.startswith("KVM_") else None
    if not isinstance(value, int):
        raise AttributeError(f"the binding knows no number called {name}")
    return value


def __dir__() -> list[str]:
    return sorted(
        name
        for name in dir(lib)
        if not name.startswith(("_", "kvmh")) and isinstance(getattr(lib, name), int)
    )
