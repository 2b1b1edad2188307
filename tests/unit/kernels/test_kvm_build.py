# SPDX-License-Identifier: MIT
"""KVM's modules out of a packaged kernel's source, with a make that is a fake."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.kernels import kvm_build
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.kvm_build import MODULES, Plan, changed
from kvmharness.kernels.modulebuild import BuildFailed, BuildRoot
from kvmharness.kernels.patch_tool import Applied
from kvmharness.kernels.patches import Patch, parse
from kvmharness.kernels.series import Series
from kvmharness.kernels.toolroot import ToolRoot

from .test_patches import diff

KVM = "virt/kvm/x.c"


def kernel(directory: Path, **values: object) -> Kernel:
    made = {"release": "7.3.4+deb13-amd64", "headers": (directory / "h.deb",), **values}
    return Kernel(image=directory / "k/vmlinux", modules=directory / "k", origin="Debian", **made)  # type: ignore[arg-type]


def a_series(name: str, *texts: str) -> Series:
    return Series(name, tuple(parse(name, text, name) for text in texts))


ONE = a_series("one.patch", diff(KVM))
TWO = a_series("two.mbox", diff(KVM), diff(KVM, after="three\n"))


class FakeRoot(BuildRoot):
    """A build root whose make writes modules that say how often it ran, and fails where told."""

    makes: ClassVar[list[list[str]]] = []

    def make(
        self, directory: str, module: str, *arguments: str, targets: Sequence[str] = ("modules",)
    ) -> None:
        FakeRoot.makes.append([module, *arguments])
        if "bad" in (self.common / KVM).read_text():
            raise BuildFailed("x.c:1: error: bad")
        for name in MODULES:
            self.module(name).write_text(f"{name} {len(FakeRoot.makes)}")
        (self.common / "arch/x86/kvm/Module.symvers").write_text("0x0\tkvm\n")

    def stripped(self, module: Path) -> Path:
        return module


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    for directory in ("arch/x86/kvm", "virt/kvm"):
        (source / directory).mkdir(parents=True)
    (source / KVM).write_text("source\n")
    FakeRoot.makes.clear()

    def for_kernel(kernel: Kernel, stage: Path) -> FakeRoot:
        root = FakeRoot(ToolRoot(tmp_path, {}), stage / "root", kernel)
        root.common.mkdir(parents=True)
        return root

    def apply(patch: Patch, directory: Path, release: str) -> Applied:
        (directory / KVM).write_text(patch.text)
        return Applied((f"{KVM}: hunk 1 fits",))

    monkeypatch.setattr(kvm_build, "kvm_source", lambda kernel: source)
    monkeypatch.setattr(BuildRoot, "for_kernel", for_kernel)
    monkeypatch.setattr(kvm_build, "apply", apply)


def test_modules_are_replaced_and_say_what_they_are_of(tmp_path: Path) -> None:
    made = changed(kernel(tmp_path), TWO)
    assert sorted(made.replaced) == ["kvm", "kvm-amd", "kvm-intel"]
    assert made.label == "7.3.4+two.mbox"
    assert made.origin == f"Debian; KVM's modules rebuilt: 2 patches ({TWO.digest})"
    assert made.release == "7.3.4+deb13-amd64"


def test_the_unchanged_source_is_built_first_and_once(tmp_path: Path) -> None:
    changed(kernel(tmp_path), ONE)
    assert [call[0] for call in FakeRoot.makes] == ["kvm.ko, kvm-amd.ko", "kvm-intel.ko"] * 2
    changed(kernel(tmp_path), TWO)
    assert [call[0] for call in FakeRoot.makes] == ["kvm.ko, kvm-amd.ko", "kvm-intel.ko"] * 3


def test_what_was_built_is_taken_from_the_cache_by_its_content(tmp_path: Path) -> None:
    made = changed(kernel(tmp_path), ONE)
    calls = len(FakeRoot.makes)
    same = changed(kernel(tmp_path), a_series("other.patch", diff(KVM)))
    assert (same.replaced, len(FakeRoot.makes)) == (made.replaced, calls)
    assert same.label == "7.3.4+other.patch"
    assert changed(kernel(tmp_path), TWO).replaced != made.replaced


def test_a_source_that_does_not_build_leaves_nothing(tmp_path: Path) -> None:
    bad = a_series("bad.patch", diff(KVM, after="bad\n"))
    for _ in range(2):  # a failure is not cached
        with pytest.raises(BuildFailed, match=r"x\.c:1: error: bad"):
            changed(kernel(tmp_path), bad)
    assert Plan.of(kernel(tmp_path)).find(bad.patches) is None
    assert not list((tmp_path / "cache/staging").iterdir())


def test_warnings_are_errors_and_a_variant_is_switched_on(tmp_path: Path) -> None:
    made = changed(kernel(tmp_path), None, "sw-protected")
    assert made.label == "7.3.4:sw-protected"
    assert made.origin == "Debian; KVM's modules rebuilt: CONFIG_KVM_SW_PROTECTED_VM"
    for call in FakeRoot.makes:
        assert {"CONFIG_KVM_WERROR=y", "CONFIG_KVM_SW_PROTECTED_VM=y"} < set(call)
        flags = next(argument for argument in call if argument.startswith("KCFLAGS="))
        assert "-DCONFIG_KVM_SW_PROTECTED_VM=1" in flags
    assert Plan.of(kernel(tmp_path)).key(()) != Plan.of(kernel(tmp_path), "sw-protected").key(())


@pytest.mark.parametrize(("release", "tdx"), [("7.3.4+deb13-amd64", True), ("6.12.9-amd64", False)])
def test_kvm_intel_has_tdx_where_the_stand_in_serves(
    tmp_path: Path, release: str, tdx: bool
) -> None:
    changed(kernel(tmp_path, release=release), ONE)
    call = FakeRoot.makes[-1]
    assert ("CONFIG_KVM_INTEL_TDX=y" in call) is tdx
    symbols = next(a for a in call if a.startswith("KBUILD_EXTRA_SYMBOLS="))
    # Of the kvm.ko that was built beside it, not of the packaged one.
    assert "/build/kvm.symvers" in symbols


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tree": Path("/linux")}, "kernel /linux: it is a build tree"),
        ({"headers": ()}, "the headers to build its modules with are not packaged"),
    ],
)
def test_what_cannot_be_built_says_why(
    tmp_path: Path, values: dict[str, object], reason: str
) -> None:
    with pytest.raises(MissingCapability, match=reason):
        changed(kernel(tmp_path, **values), ONE)


def test_a_series_that_reaches_further_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match=r"mm/gup\.c: not in virt/kvm"):
        changed(kernel(tmp_path), a_series("mm.patch", diff("mm/gup.c")))
    assert FakeRoot.makes == []


def test_fuzz_is_remembered_for_each_patch(tmp_path: Path) -> None:
    changed(kernel(tmp_path), TWO)
    found = Plan.of(kernel(tmp_path)).find(TWO.patches)
    assert found is not None
    assert found.fuzz == ((f"{KVM}: hunk 1 fits",),) * 2


def test_the_cached_source_is_not_what_is_patched(tmp_path: Path) -> None:
    changed(kernel(tmp_path), ONE)
    kept = list((tmp_path / "cache/kernels").rglob(f"kvm-objects-*/{KVM}"))
    assert [path.read_text() for path in kept] == ["source\n"]


def test_a_build_is_not_touched_by_the_next_one_in_the_same_place(tmp_path: Path) -> None:
    with Plan.of(kernel(tmp_path)).workshop() as shop:
        built = []
        for patch in TWO.patches:
            shop.apply(patch)
            module = shop.build().modules["kvm"]
            built.append((module, module.read_text()))
    assert [module.read_text() for module, _ in built] == [text for _, text in built]
    assert len({text for _, text in built}) == 2


def test_what_was_not_used_for_long_is_removed(tmp_path: Path) -> None:
    old = changed(kernel(tmp_path), ONE).replaced["kvm"].parent
    used = changed(kernel(tmp_path), TWO).replaced["kvm"].parent
    for directory in (old, used):
        os.utime(directory, (0, 0))
    changed(kernel(tmp_path), TWO)
    changed(kernel(tmp_path), a_series("three.patch", diff(KVM, after="3\n")))
    assert (old.exists(), used.exists()) == (False, True)
