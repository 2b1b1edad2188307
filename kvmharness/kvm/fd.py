# SPDX-License-Identifier: MIT
"""File descriptors that the process owns: each closes itself once."""

from __future__ import annotations

import os
from typing import Protocol

from kvmharness.closing import Closing


class HasFileno(Protocol):
    """Anything with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor's number."""


class OwnedFd(Closing):
    """A file descriptor that is closed once: by close(), by the with block, or with the object."""

    # Kept: when the interpreter ends, modules are emptied before what is left open is closed.
    _os_close = staticmethod(os.close)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor's number, or -1 once it is closed (the kernel then says EBADF)."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed."""
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing."""
        # Forget first: a number that was closed may belong to somebody else a moment later.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._os_close(fd)

    def __del__(self) -> None:
        # __init__ may have failed before there was a descriptor.
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd}>"
