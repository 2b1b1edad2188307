# SPDX-License-Identifier: MIT
"""Building a whole kernel, but for the compiler: what is configured, kept, and gone on with."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvmharness import progress
from kvmharness.errors import MissingCapability
from kvmharness.kernels import kernels, own_build, resolve, spec
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.toolroot import ToolRoot

from .elf_modules import kernel_module

#: In place of make: configures as it is told, and builds an image whose text is the source's.
MAKE = """\
root=$1; shift
echo "$@" >>{calls}
case "$*" in
*allnoconfig)
    grep -v "$(cat {lacks} 2>/dev/null || echo ^$)" $root/out/wanted.config >$root/out/.config ;;
*)
    [ -e {broken} ] && {{ echo "kvm.c:1: error: no such thing" >&2; exit 2; }}
    cd $root/out
    mkdir -p arch/x86/boot arch/x86/kvm include/config scripts
    cp $root/source/virt/kvm.c arch/x86/boot/bzImage
    echo 7.3.4-kvmharness >include/config/kernel.release
    cp {module} arch/x86/kvm/kvm.ko
    touch arch/x86/kvm/kvm.o Module.symvers scripts/modpost include/config/auto.conf ;;
esac
"""

Build = Callable[[str], kernels.Kernel]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel's source, small, and tracked by git."""
    source = tmp_path / "linux"
    for path in ("Kconfig", "virt/kvm.c", "include/kvm.h", "arch/x86/Makefile", "arch/arm/arm.c"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)
    subprocess.run(["git", "init", "-q"], cwd=source, check=True, timeout=30)
    subprocess.run(["git", "add", "."], cwd=source, check=True, timeout=30)
    (source / "kvm.o").write_text("of the user's own build")
    return source


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Builds go to a make of ours; what it was called with is returned."""
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tools/usr/bin").mkdir(parents=True)
    (tmp_path / "kvm.ko").write_bytes(kernel_module(modinfo=b"depends=\0"))
    places = {name: tmp_path / name for name in ("calls", "broken", "lacks")}
    script = MAKE.format(module=tmp_path / "kvm.ko", **places)
    monkeypatch.setattr(own_build, "_tools", lambda: ToolRoot(tmp_path / "tools", {}))
    monkeypatch.setattr(
        own_build, "_make", lambda root, *more: ["sh", "-c", script, "sh", str(root), *more]
    )

    def called() -> list[str]:
        return [line.split()[-1] for line in places["calls"].read_text().splitlines()]

    return called


def test_a_tree_is_built_once_and_is_a_kernel_then(
    tree: Path, made: Callable[[], list[str]]
) -> None:
    wanted = spec.parse(f"{tree}:debug")
    with pytest.raises(MissingCapability, match=f"kvmharness kernel build {tree} --variant debug"):
        resolve.get(wanted)
    kernel = own_build.build(str(tree), "debug")
    assert made() == ["allnoconfig", "modules"]
    assert resolve.get(wanted) == own_build.build(str(tree), "debug") == kernel
    assert made() == ["allnoconfig", "modules"]
    assert kernel.label == "7.3.4:debug"
    assert own_build.cached() == [kernel]
    assert (kernel.release, kernel.image.read_text()) == ("7.3.4-kvmharness", "virt/kvm.c")
    assert kernel.module("kvm") is not None
    assert kernel.own is not None
    below = {str(p.relative_to(kernel.own)) for p in kernel.own.rglob("*") if p.is_file()}
    # What modules are built against, and neither sources nor objects.
    assert {"source/include/kvm.h", "source/arch/x86/Makefile", "out/Module.symvers"} <= below
    assert {"out/scripts/modpost", "out/include/config/auto.conf", "out/.config"} <= below
    assert not [path for path in below if path.endswith((".o", "kvm.c", "bzImage"))]


def test_what_was_changed_in_a_tree_is_built_anew(
    tree: Path, made: Callable[[], list[str]]
) -> None:
    before = own_build.build(str(tree), "plain")
    (tree / "virt/kvm.c").write_text("changed")
    after = own_build.build(str(tree), "plain")
    assert after.image.read_text() == "changed"
    assert before.image != after.image
    # The configuration is as it was: make would build everything again for a new one.
    assert made() == ["allnoconfig", "modules", "modules"]


def test_a_build_that_failed_goes_on_where_it_was(
    tree: Path, tmp_path: Path, made: Callable[[], list[str]]
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(BuildFailed, match="error: no such thing"):
        own_build.build(str(tree), "plain")
    (objects,) = (tmp_path / "cache/builds").glob("*/root/out")
    (objects / "kvm.o").write_text("made before it failed")
    (tmp_path / "broken").unlink()
    own_build.build(str(tree), "plain")
    assert (objects / "kvm.o").read_text() == "made before it failed"
    assert made() == ["allnoconfig", "modules", "modules"]


def test_a_source_that_can_not_have_what_hosts_take_is_not_built(
    tree: Path, tmp_path: Path, made: Callable[[], list[str]]
) -> None:
    (tmp_path / "lacks").write_text("NET_9P=")
    with pytest.raises(
        BuildFailed, match=r"can't be configured for an emulated-snp host: .*NET_9P=y"
    ):
        own_build.build(str(tree), "plain")
    assert made() == ["allnoconfig"]


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("arch/x86/kvm/x86.c", True),
        ("arch/Kconfig", True),
        ("arch/arm64/kvm/arm.c", False),
        ("drivers/gpu/drm/drm.c", False),
        ("drivers/gpu/drm/Kconfig", True),
        ("Documentation/Kconfig", True),
        ("Documentation/virt/kvm/api.rst", False),
        ("virt/kvm/guest_memfd.c", True),
    ],
)
def test_what_a_build_reads_of_a_source(path: str, read: bool) -> None:
    assert own_build._is_read(path) == read


def test_minutes_left_are_of_this_steps_own_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 0.0, 30.0, 60.0, 70.0, 120.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.step("building", timed=True) as report:
        for done in (0.5, 0.5, 0.6, 0.7):  # half of it was done before
            report(done)
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "kvmharness: building: 60%, about 4 min left"
    assert len(said) == 3
