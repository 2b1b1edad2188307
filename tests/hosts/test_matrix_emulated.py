# SPDX-License-Identifier: MIT
"""The matrix of two real kernels on emulated hosts: the change under test is there to see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost

#: Two kernels fetched and booted, on a machine that does it for the first time.
pytestmark = pytest.mark.deadline(900)

CHANGED = ("snp.source.unaligned", "snp.source.null", "snp.source.readonly_cpuid")


@pytest.fixture(scope="module")
def kernels() -> list[str]:
    try:
        hosts = [EmulatedHost.prepare("emulated-snp", series) for series in ("6.12", "7.3")]
    except MissingCapability as missing:
        pytest.skip(str(missing))
    return [str(host.facts["kernel"]) for host in hosts]


def matrix(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvmharness", "matrix", *args],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def test_the_seed_series_between_two_kernels(kernels: list[str], tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    options = [part for kernel in kernels for part in ("--kernel", kernel)]
    ended = matrix(*CHANGED, "snp.source.aligned", *options, "--fresh", "--json", str(path))
    assert ended.returncode == 0, ended.stderr
    values: dict[str, Any] = json.loads(path.read_text())
    assert values["kernels"] == kernels
    assert all(values["hosts"][kernel]["emulated"] for kernel in kernels)
    rows = {row["id"]: row for row in values["scenarios"]}
    assert [name for name, row in rows.items() if row["changed"]] == sorted(
        CHANGED, key=list(rows).index
    )
    old, new = kernels

    def result(name: str, kernel: str) -> str:
        return str(rows[name]["outcomes"][kernel]["result"])

    assert (result(CHANGED[0], old), result(CHANGED[0], new)) == ("ok", "EINVAL")
    assert (result(CHANGED[1], old), result(CHANGED[1], new)) == ("EIO", "EINVAL")
    assert (result(CHANGED[2], old), result(CHANGED[2], new)) == ("ok", "EIO")
    null = rows["snp.source.null"]["outcomes"]
    assert null[old]["log"] == ["WARNING sev_gmem_post_populate"]
    assert null[new]["log"] == []
    assert rows[CHANGED[0]]["changes"][0]["commit"] == "dcbcc2323c80"
    assert any("KVM_SEV_SNP_LAUNCH_UPDATE" in line for line in null[new]["trace"])

    # The second time nothing boots: it is cached.
    again = matrix(*CHANGED, *options, "--text")
    assert "scenarios" not in again.stderr
    assert "snp.source.unaligned: measured pages" in again.stdout
