# SPDX-License-Identifier: MIT
"""``kvmharness matrix``: on this machine's kernel, from a file, compared; usage in one line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kvmharness import Kvm

from .command import kvmharness

NATIVE = ("matrix", "--vm-type", "default", "--host", "native")


@pytest.fixture
def seen(kvm: Kvm, tmp_path: Path) -> Path:
    """A matrix of this machine's kernel, as JSON."""
    path = tmp_path / "native.json"
    ended = kvmharness(*NATIVE, "--json", str(path))
    assert ended.status == 0, ended.err
    return path


def load(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def test_this_machines_kernel(seen: Path) -> None:
    values = load(seen)
    release = os.uname().release
    assert values["kernels"] == [release]
    assert values["hosts"][release]["emulated"] is False
    outcomes = {row["id"]: row["outcomes"][release] for row in values["scenarios"]}
    flags = outcomes["gmem.create.flags"]
    assert flags["result"] == "EINVAL"
    assert [step["words"] for step in flags["steps"]] == ["EINVAL"] * 3
    assert "KVM_CREATE_GUEST_MEMFD" in " ".join(flags["trace"])
    # It observes: what the contract says of this kernel is noted, and changes no status.
    assert {outcome.get("contract", "") for outcome in outcomes.values()} <= {"kept", "broken", ""}


def test_select_all_and_topics_in_order(kvm: Kvm) -> None:
    ended = kvmharness(*NATIVE, "gmem.mmap", "attr", "--text")
    assert ended.status == 0
    assert "gmem.mmap.in_place" in ended.out
    assert "attr.default_vm.set" in ended.out
    assert "gmem.bind" not in ended.out
    assert "kvmharness: native, Linux" in ended.err


def test_json_to_stdout_is_nothing_but_json(kvm: Kvm) -> None:
    ended = kvmharness(*NATIVE, "gmem.create.flags", "--json", "-")
    assert json.loads(ended.out)["schema"] == "kvmharness.matrix/2"


def test_a_file_shown_again_in_every_form(seen: Path, tmp_path: Path) -> None:
    page, copy = tmp_path / "page.html", tmp_path / "copy.json"
    shown = kvmharness("matrix", "--from", str(seen), "--html", str(page), "--json", str(copy))
    assert (shown.status, shown.err) == (0, "")
    assert load(copy) == load(seen)
    assert page.read_text().startswith("<!doctype html>")
    mail = kvmharness("matrix", "--from", str(seen), "--text", "gmem.create").out
    assert mail.isascii()
    assert max(map(len, mail.splitlines())) <= 76


def test_compared_with_itself_nothing_differs(seen: Path) -> None:
    ended = kvmharness("matrix", "--compare", str(seen), str(seen))
    assert ended.status == 0
    assert "0 differ" in ended.out


def test_a_difference_is_status_1_and_said(seen: Path, tmp_path: Path) -> None:
    values = load(seen)
    (release,) = values["kernels"]
    for row in values["scenarios"]:
        if row["id"] == "gmem.create.flags":
            row["outcomes"][release]["steps"][0]["errno"] = 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps(values))
    ended = kvmharness("matrix", "--compare", str(seen), str(other))
    assert ended.status == 1
    assert "gmem.create.flags" in ended.out
    assert "ok; EINVAL x2" in ended.out


def test_nothing_that_could_run_is_status_4(kvm: Kvm) -> None:
    if "snp" in {vm_type.label for vm_type in kvm.vm_types()}:
        pytest.skip("this host has SNP")
    ended = kvmharness("matrix", "--host", "native", "snp.source.null")
    assert ended.status == 4
    assert "kvm_amd offers no SEV-SNP here" in ended.out or "skip" in ended.out


def test_without_kvm_the_column_says_so() -> None:
    ended = kvmharness(*NATIVE, "gmem.create.flags", kvm_errno=errno.EACCES)
    assert ended.status == 4
    assert "/dev/kvm" in ended.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--vm-type", "sev"], "Invalid value for '--vm-type'"),
        (["--host", "mars"], "--host mars: snp scenarios are observed on native or emulated-snp"),
        (["--host", "native", "--kernel", "6.12"], "--kernel is for emulated hosts"),
        (["--kernel", "nonsense"], "give a series (6.12), newest, or the path"),
        (["--kernel", "./no/tree"], "no such file or directory"),
        (["snp.sauce"], "no scenario is called 'snp.sauce'; close to it: snp.source"),
        (["--json", "/absent/file"], "can't write /absent/file: No such file"),
        (["--json", "same", "--html", "./same"], "same file"),
        (["--from", "/absent"], "can't read /absent: No such file"),
        (["--from", "/dev/null"], "/dev/null is not JSON"),
        (["--from", "x", "--kernel", "6.12"], "--from shows what is in a file"),
        (["--compare", "a", "b", "--kernel", "6.12"], "--compare reads two files"),
        (["--compare", "/dev/null", "/dev/null"], "/dev/null is not JSON"),
        (["--compare", "a"], "requires 2 arguments"),
    ],
)
def test_wrong_usage_is_one_line(args: list[str], said: str, tmp_path: Path) -> None:
    ended = kvmharness("matrix", *args, cwd=tmp_path)
    assert ended.status == 2
    assert said in ended.line
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []
