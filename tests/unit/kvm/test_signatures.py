# SPDX-License-Identifier: MIT
"""What help() and inspect say of a call: its own name, arguments, and what it returns."""

from __future__ import annotations

import inspect
import pydoc
import typing
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

from kvmharness.kvm import device, guest_memfd, system, vcpu, vm
from kvmharness.kvm.result import Result
from kvmharness.launch import psp, sev, sev_es, tdx
from kvmharness.machine import machine

#: Every type of fd or launch, and the type of its ``try_``.
FORMS: list[tuple[type, type]] = [
    (system.Kvm, system.KvmTry),
    (vm.Vm, vm.VmTry),
    (vcpu.Vcpu, vcpu.VcpuTry),
    (guest_memfd.GuestMemfd, guest_memfd.GuestMemfdTry),
    (device.Device, device.DeviceTry),
    (sev.Snp, sev.SnpTry),
    (sev_es.Sev, sev_es.SevTry),
    (tdx.Tdx, tdx.TdxTry),
    (tdx.TdxVcpu, tdx.TdxVcpuTry),
    (psp.SevDevice, psp.SevDeviceTry),
    (machine.Machine, machine.MachineTry),
]


def both_forms() -> Iterator[Any]:
    """Give each raising form that is a returning one unwrapped, with that."""
    for owner, try_ in FORMS:
        for name in dir(owner):
            form = getattr(owner, name)
            if not name.startswith("_") and hasattr(form, "__wrapped__"):
                yield pytest.param(owner, form, getattr(try_, name), id=f"{owner.__name__}.{name}")


CALLS = list(both_forms())


def test_there_are_many() -> None:
    assert len(CALLS) > 140


@pytest.mark.parametrize(("owner", "form", "returning"), CALLS)
def test_a_raising_form_is_called_and_signed_as_its_own(
    owner: type, form: FunctionType, returning: FunctionType
) -> None:
    home = next(base for base in owner.__mro__ if form.__name__ in vars(base))
    assert isinstance(form, FunctionType)
    assert form.__qualname__ == f"{home.__qualname__}.{form.__name__}"
    assert form.__module__ == home.__module__
    assert form.__doc__ == returning.__doc__

    ours, theirs = inspect.signature(form), inspect.signature(returning)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    assert theirs.return_annotation == f"Result[{ours.return_annotation}]"
    value, result = typing.get_type_hints(form), typing.get_type_hints(returning)
    assert result.pop("return") == Result[value.pop("return")]  # type: ignore[misc]
    assert value == result

    text = pydoc.plain(pydoc.render_doc(form))
    assert f"{form.__name__}{inspect.signature(form)}" in text
    assert "Result[" not in text.splitlines()[2]


@pytest.mark.parametrize(("owner", "form", "returning"), CALLS)
def test_a_returning_form_is_what_it_says(
    owner: type, form: FunctionType, returning: FunctionType
) -> None:
    assert returning.__qualname__.endswith(f"Try.{form.__name__}")
    assert not hasattr(returning, "__wrapped__")


def test_a_bound_method_has_no_self() -> None:
    signature = inspect.signature(vm.Vm(-1, 0, 0).set_memory_attributes)
    assert (
        str(signature) == "(gpa: 'int', size: 'int', attributes: 'int', flags: 'int' = 0) -> 'int'"
    )
