# SPDX-License-Identifier: MIT
"""How a kernel is named: what each name means, and what names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernels import spec
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.spec import Spec

NAMES = {
    "7.3": Spec("7.3"),
    "7.3.4": Spec("7.3.4"),
    "7.4-rc2": Spec("7.4-rc2"),
    "newest": Spec("newest"),
    "7.3.4+deb13": Spec("7.3.4+deb13"),
    "7.3.4+deb13-amd64": Spec("7.3.4+deb13-amd64"),
    "6.18.15-1-amd64": Spec("6.18.15-1-amd64"),
    "6.18.5+deb14+1-amd64": Spec("6.18.5+deb14", ("1-amd64",)),
    "7.3+series.mbox": Spec("7.3", ("series.mbox",)),
    "newest+series.mbox": Spec("newest", ("series.mbox",)),
    "7.3.4+deb13-amd64+a.patch+b.patch": Spec("7.3.4+deb13-amd64", ("a.patch", "b.patch")),
    "7.3+~/in/a.patch": Spec("7.3", ("~/in/a.patch",)),
    "7.3+~/linux@base..topic": Spec("7.3", ("~/linux@base..topic",)),
    "7.3:sw-protected": Spec("7.3", (), "sw-protected"),
    "7.3+s.mbox:sw-protected": Spec("7.3", ("s.mbox",), "sw-protected"),
}


@pytest.mark.parametrize("wanted", NAMES)
def test_a_name_is_read_and_said_again(wanted: str) -> None:
    assert spec.parse(wanted) == NAMES[wanted]
    assert str(spec.parse(wanted)) == wanted


@pytest.mark.parametrize("wanted", ["", "abc", "6", "v6.12", "7.3x", "7.3 +a.patch"])
def test_what_names_no_kernel_is_a_usage_error(wanted: str) -> None:
    with pytest.raises(UsageError, match="give a series"):
        spec.parse(wanted)


def test_a_missing_tree_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory"):
        spec.parse(str(tmp_path / "linux"))


@pytest.mark.parametrize("wanted", ["7.3:protected", "7.3+s.mbox:none", "7.3:"])
def test_an_unknown_variant_says_which_there_are(wanted: str) -> None:
    with pytest.raises(UsageError, match=r"no variant '.*'; there are: sw-protected"):
        spec.parse(wanted)


@pytest.mark.parametrize("wanted", ["7.3+", "7.3+a.patch+", "7.3+:sw-protected"])
def test_a_plus_with_nothing_behind_it_is_a_usage_error(wanted: str) -> None:
    with pytest.raises(UsageError, match=r"no patch behind a \+"):
        spec.parse(wanted)


def test_a_directory_is_a_tree_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("linux", "7.3+mine", "linux:debug"):
        (tmp_path / name).mkdir()
        tree = str(tmp_path / name)
        assert spec.parse(tree) == Spec(tree, is_tree=True)


def test_a_tree_has_variants(tmp_path: Path) -> None:
    assert spec.parse(f"{tmp_path}:sw-protected") == Spec(
        str(tmp_path), variant="sw-protected", is_tree=True
    )


def test_a_file_may_have_a_plus_or_colon_in_its_name(tmp_path: Path) -> None:
    for name in ("a+b.patch", "a:plain", "c.patch"):
        (tmp_path / name).touch()
    files = tuple(str(tmp_path / name) for name in ("c.patch", "a+b.patch", "a:plain"))
    assert spec.parse("+".join(("7.3", *files))) == Spec("7.3", files)


def _kernel(directory: Path, **made: object) -> Kernel:
    (directory / "modules").mkdir(exist_ok=True)
    for name in ("kvm", "ccp"):
        (directory / f"modules/{name}.ko").touch()
    image = directory / "vmlinux"
    return Kernel("7.3.4+deb13-amd64", image, directory / "modules", "here", **made)  # type: ignore[arg-type]


def test_a_changed_kernel_has_a_name_and_modules_of_its_own(tmp_path: Path) -> None:
    plain = _kernel(tmp_path)
    assert plain.label == "7.3.4+deb13-amd64"
    mine = tmp_path / "mine.ko"
    mine.write_bytes(b"one")
    changed = _kernel(tmp_path, replaced={"kvm": mine}, changes="+series.mbox")
    assert changed.label == "7.3.4+series.mbox"
    assert (changed.module("kvm"), changed.module("ccp")) == (mine, plain.module("ccp"))
    before = changed.identity
    mine.write_bytes(b"two")
    assert len({plain.identity, before, changed.identity}) == 3
