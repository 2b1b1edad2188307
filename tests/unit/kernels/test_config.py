# SPDX-License-Identifier: MIT
"""What a tree must have configured: read from the fragment that people merge into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.host_kinds import EMULATED
from kvmharness.hosts import suitable
from kvmharness.kernels import config
from kvmharness.kernels.kernels import Kernel


def whole(**other: str) -> dict[str, str]:
    """Return a configuration that has all that hosts take, but for `other`."""
    options = config.options(config.fragment("host"))
    return {each.name: each.wanted for each in options if each.wanted != "n"} | other


@pytest.mark.parametrize("kind", EMULATED)
def test_the_fragment_is_enough(kind: str) -> None:
    assert config.why_not(whole(), kind) is None


def test_each_option_that_is_missing_is_named_with_its_reason() -> None:
    told = config.why_not(whole(NET_9P="n", VIRTIO_CONSOLE="m", KVM="y"), "emulated-snp")
    assert told is not None
    # Nothing loads that module: what comes out of the host comes through it.
    assert "CONFIG_VIRTIO_CONSOLE=y (a command's output and status leave through virtio" in told
    assert "CONFIG_NET_9P=y (the caller's root comes in over 9p)" in told
    assert "CONFIG_KVM=m (the stand-in goes between kvm.ko and the vendor's module)" in told
    assert "kvmharness kernel fragment" in told
    assert told.count("CONFIG_") == 3


@pytest.mark.parametrize(
    ("other", "kind", "serves"),
    [
        ({"9P_FS": "m", "OVERLAY_FS": "m"}, "emulated-snp", True),
        ({"CRYPTO_DEV_CCP_DD": "y"}, "emulated-snp", True),
        ({"MODULE_SIG_FORCE": "y"}, "emulated-snp", False),
        ({"KVM_AMD": "n", "KVM_AMD_SEV": "n"}, "emulated-snp", False),
        ({"KVM_AMD": "n", "KVM_AMD_SEV": "n"}, "emulated-tdx", True),
        ({"KVM_INTEL": "n"}, "emulated-tdx", False),
    ],
)
def test_what_serves_which_kind(other: dict[str, str], kind: str, serves: bool) -> None:
    assert (config.why_not(whole(**other), kind) is None) == serves


def test_what_was_built_counts_and_not_what_is_configured_since(tmp_path: Path) -> None:
    assert config.of_tree(tmp_path) is None
    (tmp_path / ".config").write_text("CONFIG_KVM=y\n# CONFIG_XEN is not set\n")
    assert config.of_tree(tmp_path) == {"KVM": "y"}
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/auto.conf").write_text("CONFIG_KVM=m\n")
    assert config.of_tree(tmp_path) == {"KVM": "m"}


def test_a_tree_is_refused_before_the_boot(tmp_path: Path) -> None:
    for name in ("kvm", "kvm-amd"):
        (tmp_path / f"{name}.ko").touch()
    tree = Kernel("7.3.0-rc1+", tmp_path, tmp_path, "a tree", tree=tmp_path)
    written = (f"CONFIG_{name}={value}\n" for name, value in whole(DEVTMPFS="n").items())
    (tmp_path / ".config").write_text("".join(written))
    told = suitable.why_not(EMULATED["emulated-snp"], tree)
    assert told is not None
    assert "CONFIG_DEVTMPFS=y (the first process mounts" in told
