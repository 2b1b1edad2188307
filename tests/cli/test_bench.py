# SPDX-License-Identifier: MIT
"""``kvmharness bench``: figures with C and without, and clear words where there are none."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from kvmharness import Kvm

from .command import kvmharness


def test_a_row_has_figures_of_both_sides(kvm: Kvm, tmp_path: Path) -> None:
    ended = kvmharness("bench", "ioctl", "slots.many", "--rounds", "2", "--json", "-")
    assert (ended.status, ended.err) == (0, "")
    data = json.loads(ended.out)
    assert data["schema"] == "kvmharness.bench/1"
    assert set(data["rows"]) == {"ioctl", "slots.many"}
    assert data["starts"] == {}
    for row in data["rows"].values():
        assert len(row["c_ns"]) == len(row["python_ns"]) == 2
        assert row["ratio"] == min(row["python_ns"]) / min(row["c_ns"])


def test_a_file_is_written_beside_the_table(kvm: Kvm, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ended = kvmharness("bench", "until.two", "until.busy", "--rounds", "1", "--json", str(file))
    assert ended.status == 0
    assert "until.busy" in ended.out
    assert set(json.loads(file.read_text())["rows"]) == {"until.two", "until.busy"}


def test_without_a_compiler_pythons_figures_are_shown_alone(kvm: Kvm) -> None:
    ended = kvmharness("bench", "ioctl", "--rounds", "1", CC="no-such-cc")
    assert ended.status == 0
    assert "no comparison: no C compiler: no-such-cc is not there" in ended.out
    assert "KVM_CHECK_EXTENSION, raising" in ended.out


def test_without_kvm_nothing_is_measured() -> None:
    ended = kvmharness("bench", kvm_errno=errno.ENOENT)
    assert ended.status == 4
    assert ended.out.startswith("nothing to measure: ")


def test_a_row_that_there_is_not_is_said_in_a_line(kvm: Kvm) -> None:
    ended = kvmharness("bench", "nosuchrow", "ioctl")
    assert ended.status == 2
    assert "no row nosuchrow; there are: ioctl.try, ioctl, " in ended.line


def test_the_rows_are_listed(kvm: Kvm) -> None:
    ended = kvmharness("bench", "--list")
    assert ended.status == 0
    assert {"ioctl.try", "exit", "read.4K", "import", "probe"} <= set(ended.out.split())
