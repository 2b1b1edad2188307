# SPDX-License-Identifier: MIT
"""docs/ioctls.md is what the code says, and no ioctl is without a method or a reason."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    loader = SourceFileLoader("ci_ioctls", str(ROOT / "ci" / "ioctls"))
    spec = importlib.util.spec_from_loader("ci_ioctls", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(table: ModuleType) -> dict[str, dict[str, list[str]]]:
    made: dict[str, dict[str, list[str]]] = table.made_by()
    return made


def test_the_document_is_up_to_date(table: ModuleType, found: Any) -> None:
    assert table.TABLE.read_text() == table.document(found), "run ci/ioctls"


def test_each_declared_ioctl_has_a_method_or_a_reason(table: ModuleType, found: Any) -> None:
    assert table.without_method(found) == []


def test_one_without_either_shows_up(table: ModuleType) -> None:
    found = {"all": {"KVM_NEW_THING": [], "KVM_ARM_NEW": [], "KVM_RUN": ["Vcpu.run"]}}
    assert table.without_method(found) == ["KVM_NEW_THING"]


def test_a_reason_is_for_something_without_a_method(table: ModuleType, found: Any) -> None:
    both = {
        ioctl: table.reason(ioctl)
        for ways in found.values()
        for ioctl, methods in ways.items()
        if methods and table.reason(ioctl)
    }
    assert both == {}


def test_methods_are_found_through_the_functions_they_call(found: Any) -> None:
    by_ioctl = {ioctl: ways for table in found.values() for ioctl, ways in table.items()}
    assert by_ioctl["KVM_GET_MSRS"] == ["Kvm.get_msrs", "Vcpu.get_msrs"]
    assert by_ioctl["KVM_GET_XSAVE2"] == ["Vcpu.get_xsave2"]
    assert by_ioctl["KVM_GET_DEVICE_ATTR"] == [
        "Kvm.get_device_attr_u64",
        "Vcpu.get_tsc_offset",
        "Device.get_attr",
    ]
    assert "Vcpu.run" in by_ioctl["KVM_RUN"]
    assert by_ioctl["KVM_SEV_LAUNCH_SECRET"] == ["Sev.launch_secret"]
    assert len(by_ioctl) > 140


def test_every_returning_form_has_a_raising_one(table: ModuleType) -> None:
    alone = {
        f"{kind.__name__}.{name}"
        for kind in table.kinds().values()
        for name, _ in table.methods(table.forms_of(kind))
        if not hasattr(kind, name)
    }
    # Any sub-command's number, which the methods are for.
    assert {name.partition(".")[2] for name in alone} == {"command", "raw_command"}
