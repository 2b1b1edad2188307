# SPDX-License-Identifier: MIT
"""From a host's runs to a file, a table and floors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from kvmharness.coverage import floors
from kvmharness.coverage.interest import Group
from kvmharness.coverage.lines import Line, Lines, Row
from kvmharness.errors import MissingCapability, UsageError
from kvmharness.hosts import covered
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.hosts.host import HostRun, OnOutput, Verdict
from kvmharness.labels import HostLabel
from kvmharness.suite import kernel_coverage
from kvmharness.suite.kernel_coverage import KernelCoverage

from ..coverage.samples import module

pytest.importorskip("capstone")

RELEASE = "7.3.4-amd64"
#: What each boot runs, of a section that is at 0x1000.
ENTRY, TAIL = b"0x1000:  85 ff  test\n0x1002:  74 08  je\n", b"0x1010:  31 c0  xor\n"


class _Runs:
    facts: Mapping[str, object] = {}

    def __init__(self, *logs: bytes) -> None:
        self._logs = list(logs)

    def run(
        self, argv: Sequence[str], *, on_output: OnOutput, block_log: int, **options: Any
    ) -> HostRun:
        os.write(block_log, self._logs.pop(0))
        on_output("stdout", b"/sys/module/kvm_amd/sections/.text 0x1000\n" + covered._END)
        return HostRun(Verdict.FINISHED, 0, 0.1)


def _host(directory: Path, label: str = RELEASE) -> EmulatedHost:
    file = directory / "kvm-amd.ko"
    file.write_bytes(module())
    host = SimpleNamespace(
        modules={"kvm-amd": file},
        label=HostLabel("emulated-snp", label),
        kind=SimpleNamespace(rebuilt=()),
        kernel=SimpleNamespace(tree=None, release=RELEASE, label=label.partition(" ")[0]),
    )
    return cast(EmulatedHost, host)


@pytest.fixture(autouse=True)
def _interest(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group("SNP", "kvm_amd", "sev.c", ("launch",), ())
    monkeypatch.setattr(kernel_coverage, "groups", lambda: (group,))
    # Behind the entry's first instruction is line 10, behind its jump line 11.
    rows = [Row(0x00, Line("sev.c", 10)), Row(0x04, Line("sev.c", 11)), Row(0x0C, None)]
    monkeypatch.setattr(kernel_coverage, "module_lines", lambda *given: Lines({".text": rows}))
    monkeypatch.setattr(floors, "_read", lambda: {"emulated-snp": {"7.3": {"launch": 60}}})


def _measure(coverage: KernelCoverage, host: EmulatedHost, *logs: bytes, whole: bool) -> None:
    runs = coverage.watch(host, _Runs(*logs))
    with coverage.telling(host.label, whole=whole):
        for _ in logs:
            runs.run(["true"])


def _shown(coverage: KernelCoverage) -> bool:
    return coverage.show(Console(file=StringIO(), width=120))


def test_boots_of_one_run_are_told_together(tmp_path: Path) -> None:
    coverage = KernelCoverage(tmp_path / "new" / "directory")
    _measure(coverage, _host(tmp_path), ENTRY, TAIL, whole=False)
    written = tmp_path / "new" / "directory" / "emulated-snp-7.3.4-amd64"
    told = json.loads(written.with_name(f"{written.name}.json").read_text())
    assert told["boots"] == 2
    (launch,) = told["functions"]
    assert (launch["function"], launch["reached"]) == ("launch", 2)
    assert [line for gap in launch["not_reached"] for line in gap["lines"]] == ["sev.c:11"]
    tracefile = written.with_name(f"{written.name}.info").read_text()
    assert "SF:sev.c\nFN:10,launch\nFNDA:1,launch\n" in tracefile
    assert "DA:10,1\nDA:11,0\n" in tracefile


def test_a_kernel_whose_lines_can_t_be_had_is_told_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: object) -> Lines:
        raise MissingCapability("KVM's source of 7.3.4", "not in the archive")

    monkeypatch.setattr(kernel_coverage, "module_lines", refuse)
    coverage = KernelCoverage(tmp_path)
    _measure(coverage, _host(tmp_path), ENTRY, whole=False)
    assert (tmp_path / "emulated-snp-7.3.4-amd64.json").exists()
    assert not (tmp_path / "emulated-snp-7.3.4-amd64.info").exists()
    assert "no source lines of kvm-amd: KVM's source of 7.3.4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "whole", "fails"),
    [
        (RELEASE, True, True),
        (RELEASE, False, False),  # a part of the suite reaches less
        (f"{RELEASE}+fix.patch", True, False),
        (f"{RELEASE} kvm.tdp_mmu=0", True, False),
    ],
)
def test_a_whole_run_on_a_packaged_kernel_is_held_to_the_floors(
    tmp_path: Path, label: str, whole: bool, fails: bool
) -> None:
    coverage = KernelCoverage(tmp_path)
    _measure(coverage, _host(tmp_path, label), ENTRY, whole=whole)
    assert _shown(coverage) is fails


def test_a_run_that_was_interrupted_is_told_and_not_held_to_them(tmp_path: Path) -> None:
    coverage, host = KernelCoverage(tmp_path), _host(tmp_path)
    coverage.watch(host, _Runs())
    with pytest.raises(KeyboardInterrupt), coverage.telling(host.label, whole=True):
        raise KeyboardInterrupt
    assert (tmp_path / "emulated-snp-7.3.4-amd64.json").exists()
    assert not _shown(coverage)


def test_without_the_disassembler_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(UsageError, match=r"pip install 'kvmharness\[coverage\]'"):
        KernelCoverage(tmp_path)
