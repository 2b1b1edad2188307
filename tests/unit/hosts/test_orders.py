# SPDX-License-Identifier: MIT
"""What a guest is told once its modules are loaded, as a shell reads it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from kvmharness.hosts.orders import orders
from kvmharness.hosts.virtual_machine import Share

_SHARES = (Share("share0", Path("/a"), Path("/it's")), Share("share1", Path("/b"), Path("/b")))


def _read(told: bytes, word: str, tmp_path: Path) -> str:
    size, _, text = told.partition(b"\n")
    assert int(size) == len(text)
    (tmp_path / "orders").write_bytes(text)
    script = f'. {tmp_path}/orders; printf %s "${word}"'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_shell_reads_what_was_written(tmp_path: Path) -> None:
    script = "export A='it'\"'\"'s'\ncd /\nexec printf '%s\\n' \"$A\" `x` \\\n"
    told = orders(_SHARES, script, interactive=True)
    assert _read(told, "COMMAND", tmp_path) == script
    assert _read(told, "SHARES", tmp_path) == "share0 /it's\nshare1 /b"
    assert _read(told, "INTERACTIVE", tmp_path) == "1"
    assert abs(int(_read(told, "NOW", tmp_path)) - time.time()) < 60
