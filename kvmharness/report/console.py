# SPDX-License-Identifier: MIT
"""The console that people's output goes to: as wide as the terminal, wider in a log."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: A log is searched more than it is looked at: reasons should stay on their line.
_LOG_WIDTH = 140


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error."""
    stream = sys.stderr if stderr else sys.stdout
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, stderr=stderr, width=_LOG_WIDTH if wide else None)
