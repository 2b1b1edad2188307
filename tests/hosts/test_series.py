# SPDX-License-Identifier: MIT
"""Series of patches with known faults, on real kernels of emulated hosts: each is told as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.kernels import packages
from kvmharness.kernels.kvm_build import Plan
from kvmharness.kernels.kvm_source import kvm_source

from .planted_series import SERIES, PlantedPatch, write
from .undone_series import PATCHES as UNDONE

#: The first build of a kernel's modules takes minutes on a busy machine.
_RUN = 800.0
pytestmark = pytest.mark.deadline(_RUN + 100)

KERNEL = "7.3"
ALIGNED, UNALIGNED = "snp.source.aligned", "snp.source.unaligned"

Told = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the kernel's source is: KVM's part of it, and its headers."""
    try:
        kernel = EmulatedHost.prepare("emulated-snp", KERNEL).kernel
        Plan.of(kernel)
        source = kvm_source(kernel)
    except MissingCapability as missing:
        pytest.skip(str(missing))
    headers = tmp_path_factory.mktemp("headers")
    for deb in kernel.headers:
        packages.extract(deb, headers, lambda path: "/include/linux/kvm" in path)
    (common,) = headers.glob("usr/src/*-common")
    return [source, common]


@pytest.fixture
def told(trees: list[Path], tmp_path: Path) -> Told:
    """Have a series examined as a person would; return the status, the JSON and the text."""

    def told_(patches: Sequence[PlantedPatch], *arguments: str) -> tuple[int, dict[str, Any], str]:
        (tmp_path / "planted").mkdir()
        files = write(patches, trees, tmp_path / "planted")
        report = tmp_path / "series.json"
        argv = [sys.executable, "-m", "kvmharness", "series", *files, *arguments]
        done = subprocess.run(
            [*argv, "--kernel", KERNEL, "--text", "--json", str(report)],
            capture_output=True,
            text=True,
            timeout=_RUN,
            check=False,
        )
        assert report.exists(), done.stderr
        values = json.loads(report.read_text())
        assert values["exit_status"] == done.returncode, done.stderr
        return done.returncode, values, done.stdout

    return told_


def verdicts(values: dict[str, Any]) -> dict[str, str]:
    sides = values["vm_types"]
    assert all(side["emulated"] and side["after"]["kernel"] == values["patched"] for side in sides)
    return {each["id"]: each["verdict"] for side in sides for each in side["differences"]}


def only(*scenarios: str) -> list[str]:
    return [argument for scenario in scenarios for argument in ("--only", scenario)]


def test_the_third_of_four_patches_breaks_a_promise_and_is_named(told: Told) -> None:
    status, values, text = told(SERIES["third"], "--each", *only(ALIGNED, UNALIGNED))
    assert (status, verdicts(values)) == (1, {UNALIGNED: "broken"})
    assert [step["builds"] for step in values["steps"]] == [True] * 4
    (first,) = values["first"]
    assert (first["number"], first["scenarios"]) == (3, [UNALIGNED])
    (difference,) = values["vm_types"][0]["differences"]
    assert (difference["before"]["result"], difference["after"]["result"]) == ("EINVAL", "EDOM")
    assert "promised" in text
    assert "EDOM" in text


def test_a_check_dropped_is_a_changed_promise(told: Told) -> None:
    status, values, _ = told(SERIES["check"], *only(ALIGNED, UNALIGNED))
    assert (status, verdicts(values)) == (3, {UNALIGNED: "changed"})


def test_pages_that_leak_are_seen(told: Told) -> None:
    status, values, text = told(SERIES["leak"], *only(ALIGNED, "snp.source.readonly"))
    assert status == 1
    assert set(verdicts(values).values()) == {"broken"}
    assert "the kernel still holds" in " ".join(text.split())


def test_the_second_of_three_patches_breaks_the_build_and_is_named(told: Told) -> None:
    status, values, text = told(SERIES["three"], "--each", *only(ALIGNED, "tdx.source.aligned"))
    # In the end it changes nothing, on either host.
    assert (status, verdicts(values)) == (1, {})
    assert [side["compared"] for side in values["vm_types"]] == [1, 1]
    assert [step["builds"] for step in values["steps"]] == [True, False, True]
    assert "unused variable" in values["steps"][1]["error"]
    assert "Patch 2 is the first that breaks the build" in text


def test_a_series_undone_shows_what_it_had_changed(told: Told) -> None:
    changed = (UNALIGNED, "snp.source.null", "snp.source.readonly_cpuid")
    status, values, _ = told(UNDONE, *only(ALIGNED, *changed))
    found = verdicts(values)
    assert set(found) == set(changed)
    assert (found[UNALIGNED], found["snp.source.readonly_cpuid"]) == ("changed", "changed")
    # It came with a WARN.
    assert (status, found["snp.source.null"]) == (1, "broken")


def test_sw_protected_vms_are_there_with_the_modules_of_the_variant() -> None:
    host = EmulatedHost.prepare("emulated-snp", f"{KERNEL}:sw-protected")
    assert host.facts["rebuilt"] == ["kvm", "kvm-amd"]
    probe = "from kvmharness import Kvm; print([t.label for t in Kvm.open().vm_types()])"
    argv = [sys.executable, "-c", probe]
    result = host.run(argv, timeout=60)
    assert result.ok, result.explain() + result.stderr.decode()
    assert b"sw-protected" in result.stdout
    plain = EmulatedHost.prepare("emulated-snp", KERNEL).run(argv, timeout=60)
    assert b"sw-protected" not in plain.stdout
