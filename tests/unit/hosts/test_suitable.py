# SPDX-License-Identifier: MIT
"""Which kernel can be which emulated host: probe and prepare say the same, for the same reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.host_kinds import EMULATED
from kvmharness.hosts import emulated, qemu, suitable
from kvmharness.kernels import config
from kvmharness.kernels.kernels import Kernel
from kvmharness.probe import facts

MODULES = ("kvm", "kvm-amd", "9p", "9pnet-virtio", "overlay")

#: By release: what of it is in the cache, and why it can't be a host of each kind.
CASES: dict[str, tuple[tuple[str, ...], bool, dict[str, str | None]]] = {
    "6.10.11-amd64": (
        MODULES,
        True,
        {"emulated-snp": "kernel 6.11 or newer", "emulated-tdx": "kernel 7.2 or newer"},
    ),
    # KVM has had TDX for two series, and still the stand-in does not fit.
    "6.18.15+deb13-amd64": (
        MODULES,
        False,
        {"emulated-snp": None, "emulated-tdx": "kernel 7.2 or newer"},
    ),
    "7.3.4+deb13-amd64": (MODULES, True, {"emulated-snp": None, "emulated-tdx": None}),
    "7.3.5+deb13-amd64": (
        MODULES,
        False,
        {"emulated-snp": None, "emulated-tdx": "the headers to build kvm-intel with"},
    ),
    "7.3.6+deb13-amd64": (
        ("kvm", "9p", "9pnet-virtio", "overlay"),
        True,
        {"emulated-snp": "no kvm-amd.ko", "emulated-tdx": None},
    ),
    "7.3.7+deb13-amd64": (
        ("kvm", "kvm-amd", "9p", "9pnet-virtio"),
        True,
        {"emulated-snp": "no overlay.ko", "emulated-tdx": "no overlay.ko"},
    ),
}


class _WentOn(Exception):
    """Raised where prepare fetches QEMU: the kernel was found to serve."""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with the kernels of CASES."""
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path))
    for release, (modules, headers, _) in CASES.items():
        directory = tmp_path / "kernels" / release
        for name in ("modules", "headers"):
            (directory / name).mkdir(parents=True)
        for name in modules:
            (directory / "modules" / f"{name}.ko").touch()
        if headers:
            (directory / "headers" / "linux-headers.deb").touch()
        known = {"image": "vmlinux", "origin": "Debian"}
        (directory / "facts.json").write_text(json.dumps(known))

    def went_on() -> qemu.Qemu:
        raise _WentOn

    monkeypatch.setattr(qemu, "find", went_on)


def _prepared(kind: str, release: str) -> str | None:
    """Return why prepare refuses the kernel."""
    try:
        emulated.EmulatedHost.prepare(kind, release)
    except _WentOn:
        return None
    except MissingCapability as missing:
        return missing.reason
    raise AssertionError("prepared without QEMU")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("kind", EMULATED)
@pytest.mark.parametrize("release", CASES)
def test_probe_and_prepare_agree(kind: str, release: str) -> None:
    probed = facts.emulation_facts()["kernels"][kind][release]
    assert _prepared(kind, release) == probed
    expected = CASES[release][2][kind]
    if expected is None:
        assert probed is None
    else:
        assert expected in probed


def test_a_series_that_is_too_old_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path))
    with pytest.raises(MissingCapability, match=r"emulated-tdx on 6\.12: it takes kernel 7\.2"):
        emulated.EmulatedHost.prepare("emulated-tdx", "6.12")
    assert list(tmp_path.iterdir()) == []


def test_a_build_tree_serves_and_may_have_the_root_built_in(tmp_path: Path) -> None:
    tree = Kernel("7.3.0-rc1+", tmp_path, tmp_path, "a tree", tree=tmp_path)
    for name in ("kvm", "kvm-amd"):
        (tmp_path / f"{name}.ko").touch()
    # What the root takes may be built in; the modules on both sides of the stand-in may not.
    assert suitable.why_not(EMULATED["emulated-snp"], tree) is None
    (tmp_path / "kvm.ko").unlink()
    assert suitable.why_not(EMULATED["emulated-snp"], tree) == (
        "it has no kvm.ko: build it as a module"
    )


def test_a_tree_with_tdx_brings_its_own_kvm_intel(tmp_path: Path) -> None:
    """And one without has it built, as a packaged kernel does."""
    kind = EMULATED["emulated-tdx"]
    tree = Kernel("7.3.0-rc1+", tmp_path, tmp_path, "a tree", tree=tmp_path)
    (tmp_path / "kvm.ko").touch()
    options = [each for each in config.options(config.fragment("host")) if each.wanted != "n"]
    without = "".join(f"{each}\n" for each in options if each.name != "KVM_INTEL_TDX")
    (tmp_path / ".config").write_text(without)
    assert suitable.to_rebuild(kind, tree) == ("kvm-intel",)
    assert suitable.why_not(kind, tree) is None
    (tmp_path / ".config").write_text(f"{without}CONFIG_INTEL_TDX_HOST=y\n")
    told = suitable.why_not(kind, tree)
    assert told is not None
    assert "CONFIG_KVM_INTEL_TDX=y" in told
    with_tdx = f"{without}CONFIG_INTEL_TDX_HOST=y\nCONFIG_KVM_INTEL_TDX=y\n"
    (tmp_path / ".config").write_text(with_tdx)
    assert suitable.to_rebuild(kind, tree) == ()
    assert suitable.why_not(kind, tree) == "it has no kvm-intel.ko: build it as a module"
    (tmp_path / "kvm-intel.ko").touch()
    assert suitable.why_not(kind, tree) is None
