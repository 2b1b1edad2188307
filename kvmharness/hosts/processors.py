# SPDX-License-Identifier: MIT
"""An emulated host with more than one processor: races want two."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.hosts.host import HostRun


class WithProcessors:
    """An emulated host that boots with a given number of processors; two, where there are two."""

    def __init__(
        self, host: EmulatedHost, smp: int | None = None, keep_vmcore: Path | None = None
    ) -> None:
        self._host = host
        self._keep_vmcore = keep_vmcore
        self._smp = smp or min(2, os.cpu_count() or 1)

    @property
    def facts(self) -> Mapping[str, object]:
        """Those of the host, and ``smp``."""
        return {**self._host.facts, "smp": self._smp}

    def run(self, argv: Sequence[str], **options: Any) -> HostRun:
        """Run as EmulatedHost.run does."""
        options["keep_vmcore"] = self._keep_vmcore
        return self._host.run(argv, smp=self._smp, **options)
