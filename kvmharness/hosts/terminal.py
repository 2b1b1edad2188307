# SPDX-License-Identifier: MIT
"""The caller's terminal, while a guest has it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def size_setting() -> str:
    """Return the line of shell that gives a guest's console our size, if we have a terminal."""
    try:
        size = os.get_terminal_size()
    except OSError:
        return ""
    return f"stty rows {size.lines} cols {size.columns} 2>/dev/null\n"


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the terminal back as it was: a QEMU that is killed leaves it raw."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
