# SPDX-License-Identifier: MIT
"""From the clone's parent directory: the clone, which has the package's name, does not hide it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness import __version__, resources

from .command import environment

TOP = resources.checkout_dir()
pytestmark = pytest.mark.skipif(TOP is None, reason="not in a checkout")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A directory in which the clone lies as ``kvmharness``."""
    assert TOP is not None
    (tmp_path / "kvmharness").symlink_to(TOP, target_is_directory=True)
    return tmp_path


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(
        argv, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_of_the_clone(parent: Path) -> None:
    said = run("kvmharness/ci/kvmharness", "--version", cwd=parent)
    assert __version__ in said
    assert "native" in run("kvmharness/ci/kvmharness", "probe", cwd=parent).splitlines()[0]


def test_a_script_beside_the_clone(parent: Path) -> None:
    script = parent / "vmm.py"
    script.write_text("import kvmharness\nprint(kvmharness.__version__, kvmharness.Kvm.__name__)\n")
    assert run(sys.executable, "vmm.py", cwd=parent) == f"{__version__} Kvm\n"
    assert run(sys.executable, "-m", "vmm", cwd=parent) == f"{__version__} Kvm\n"
    assert run(sys.executable, "-m", "kvmharness", "--version", cwd=parent)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_finds_the_types(parent: Path) -> None:
    (parent / "vmm.py").write_text(
        "from kvmharness import Kvm\nwith Kvm.open() as kvm:\n    reveal_type(kvm.vcpu_mmap_size)\n"
    )
    said = run(sys.executable, "-m", "mypy", "--strict", "vmm.py", cwd=parent)
    assert 'Revealed type is "int"' in said
