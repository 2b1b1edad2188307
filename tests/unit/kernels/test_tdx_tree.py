# SPDX-License-Identifier: MIT
"""kvm-intel.ko with TDX for a user's tree: what the tree's own make is given, and when."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvmharness.host_kinds import EMULATED
from kvmharness.kernels import tdx_tree
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.modulebuild import standin

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

#: Tells what it was given, and takes it for the module.
MAKEFILE = """\
modules:
	@echo "$(CONFIG_KVM_INTEL_TDX) $(CONFIG_INTEL_TDX_HOST) [$(CONFIG_KVM_X86)]" >$(M)/kvm-intel.ko
	@cd $(M) && find . -type f | sort >>kvm-intel.ko
	@grep -o tdh_mem_page_add $(KBUILD_EXTRA_SYMBOLS) >>$(M)/kvm-intel.ko
	@test -f $(lastword $(CFLAGS_vmx/tdx.o))
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))
    for path, text in {
        "Makefile": MAKEFILE,
        "source/arch/x86/kvm/Makefile": "",
        "source/arch/x86/kvm/vmx/tdx.c": "the launch",
        "source/arch/x86/kvm/vmx/tdx.h": "",
        "source/arch/x86/kvm/vmx/tdx.o": "of the tree's own build",
        "source/arch/x86/kvm/kvm.mod.c": "of the tree's own build",
    }.items():
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / path).write_text(text)
    modules = tmp_path / "kept/modules"
    return Kernel("7.4.0-rc1+", tmp_path, modules, "a tree", tree=tmp_path / "out")


def test_the_trees_make_builds_its_own_source_with_tdx_on(kernel: Kernel) -> None:
    source = standin(EMULATED["emulated-tdx"])
    built = tdx_tree.build_kvm_intel(source, kernel)
    assert built.parent == kernel.modules.parent / "built"
    assert built.read_text().splitlines() == [
        "y y []",
        *("./Makefile", "./kvm-intel.ko", "./vmx/tdx.c", "./vmx/tdx.h"),
        "tdh_mem_page_add",
    ]


def test_it_is_built_anew_for_a_changed_source_alone(kernel: Kernel) -> None:
    source = standin(EMULATED["emulated-tdx"])
    built = tdx_tree.build_kvm_intel(source, kernel)
    assert kernel.tree is not None
    (kernel.tree / "source/arch/x86/kvm/vmx/tdx.o").write_text("another")
    assert tdx_tree.build_kvm_intel(source, kernel) == built
    (kernel.tree / "source/arch/x86/kvm/vmx/tdx.c").write_text("changed")
    assert tdx_tree.build_kvm_intel(source, kernel) != built
