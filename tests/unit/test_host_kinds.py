# SPDX-License-Identifier: MIT
"""The list of host kinds fits what it names, and it is the only list of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kvmharness
from kvmharness import host_kinds, resources
from kvmharness.hosts import emulated
from kvmharness.kernels import modulebuild
from kvmharness.kvm.vmtypes import VmType


@pytest.mark.parametrize("kind", host_kinds.EMULATED.values(), ids=host_kinds.EMULATED)
def test_a_kind_names_what_there_is(kind: host_kinds.EmulatedKind) -> None:
    VmType.parse(kind.vm_type)
    for label in kind.serves or ():
        VmType.parse(label)
    assert (modulebuild.standin(kind).directory / "Makefile").exists()
    assert all((resources.suite_dir() / path).exists() for path in kind.also)
    assert kind.standin in kind.modules
    assert {*kind.required, *kind.rebuilt, *kind.options} <= set(kind.modules)
    assert set(kind.rebuilt) <= set(emulated._BUILDERS)


def test_each_vm_type_is_seen_on_a_kind_that_serves_it() -> None:
    kinds = {vm_type.label: host_kinds.for_vm_type(vm_type.label) for vm_type in VmType}
    for label, kind in kinds.items():
        assert kind.serves is None or label in kind.serves
    for kind in host_kinds.EMULATED.values():
        assert kinds[kind.vm_type] is kind


def test_no_other_file_names_an_emulated_kind() -> None:
    names = re.compile("[\"']({})[\"']".format("|".join(map(re.escape, host_kinds.EMULATED))))
    package = Path(kvmharness.__file__).parent
    naming = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "_suite") and names.search(path.read_text())
    ]
    assert naming == ["host_kinds.py"]
