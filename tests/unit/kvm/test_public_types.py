# SPDX-License-Identifier: MIT
"""What a VMM's author sees has types: no public call takes or gives an Any or a C object."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, assert_never

import pytest

from kvmharness.kvm import cpuid, device, dirty, guest_memfd, stats, system, vcpu, vm
from kvmharness.kvm import exits as e
from kvmharness.kvm.cpuid import CpuidEntry
from kvmharness.kvm.registers import Regs, Sregs
from kvmharness.kvm.run_page import KvmRun
from kvmharness.kvm.structs import Struct
from kvmharness.launch import psp, sev, sev_es, sev_structs, tdx
from kvmharness.machine import builder, machine, snapshot

KINDS: list[type] = [
    *(system.Kvm, system.KvmTry, vm.Vm, vm.VmTry, vcpu.Vcpu, vcpu.VcpuTry),
    *(guest_memfd.GuestMemfd, guest_memfd.GuestMemfdTry, device.Device, device.DeviceTry),
    *(dirty.DirtyRing, stats.StatsFd, cpuid.Cpuid, KvmRun),
    *(sev.Snp, sev.SnpTry, sev_es.Sev, sev_es.SevTry),
    *(tdx.Tdx, tdx.TdxTry, tdx.TdxVcpu, tdx.TdxVcpuTry, psp.SevDevice, psp.SevDeviceTry),
    *(machine.Machine, machine.MachineTry, builder.VmBuilder),
]

#: Names that are imported for type checkers alone.
LATE = {"Snapshot": snapshot.Snapshot, "Sev": sev_es.Sev, "SevTry": sev_es.SevTry}


def public(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Give the methods, class methods and properties of a class with a public name."""
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        elif isinstance(member, cached_property):
            member = member.func
        ours = inspect.isfunction(member) and member.__module__ != "collections.abc"
        if ours and not name.startswith("_"):
            yield name, member


def untyped(kind: type, *, but: frozenset[str] = frozenset()) -> list[str]:
    """Return the public names of a class that have an Any, or no type, in their signature."""
    found = []
    for name, member in public(kind):
        hints = typing.get_type_hints(member, localns=LATE)
        bare = set(inspect.signature(member).parameters) - {"self", "cls"} - set(hints)
        if name not in but and (bare or any("Any" in str(hint) for hint in hints.values())):
            found.append(f"{kind.__name__}.{name}")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_public_call_has_an_any(kind: type) -> None:
    #: The way around the types, by name.
    raw = {"pointer"} if issubclass(kind, Struct) else set()
    fields = set(kind.fields) if issubclass(kind, Struct) else set()
    assert untyped(kind, but=frozenset(raw | fields)) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_there_is_something_to_look_at(kind: type) -> None:
    assert dict(public(kind))


def test_an_any_would_be_found() -> None:
    class Careless:
        def raw(self) -> Any:
            return None

        def given(self, data: list[Any]) -> int:
            return len(data)

        def bare(self, data):  # type: ignore[no-untyped-def]
            return data

        @property
        def page(self) -> Any:
            return None

        def fine(self, data: bytes) -> int:
            return len(data)

    found = untyped(Careless)
    assert found == ["Careless.bare", "Careless.given", "Careless.page", "Careless.raw"]


def test_every_structs_field_has_a_type() -> None:
    kinds = [Regs, Sregs, KvmRun, sev_structs.SnpLaunchUpdate]
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        assert set(kind.fields) <= set(hints)
        assert not any("Any" in str(hints[field]) for field in kind.fields)


# ------------------------------------------------------------------ what mypy finds

# Never called: `mypy --strict` checks it, and reports an ignored error that is none any more.


def misspelt(some: vcpu.Vcpu, kvm: system.Kvm) -> None:  # pragma: no cover
    regs = some.get_regs()
    regs.rxa = 1  # type: ignore[attr-defined]
    some.get_sregs().cr33 = 1  # type: ignore[attr-defined]
    some.get_sregs().cs.bsae = 1  # type: ignore[attr-defined]
    some.get_sregs2().pdptr = [1]  # type: ignore[attr-defined]
    some.get_fpu().mxscr = 1  # type: ignore[attr-defined]
    some.get_xsave().xstatebv = 1  # type: ignore[attr-defined]
    some.kvm_run.exit_raeson  # type: ignore[attr-defined]  # noqa: B018
    some.kvm_run.sync.regs.rxa = 1  # type: ignore[attr-defined]
    some.get_vcpu_events().nmi.injectd = 1  # type: ignore[attr-defined]
    kvm.get_supported_cpuid()[0].eaz  # type: ignore[attr-defined]  # noqa: B018
    CpuidEntry(1, eaz=1)  # type: ignore[call-arg]
    CpuidEntry(1).replaced(eaz=1)  # type: ignore[call-arg]
    Regs(rxa=1)  # type: ignore[call-arg]
    sev_structs.SnpLaunchUpdate(gfn=1)  # type: ignore[call-arg]
    tdx.TdxInitMemRegion(pages=1)  # type: ignore[call-arg]
    regs.rax = "1"  # type: ignore[assignment]
    some.set_regs(some.get_sregs())  # type: ignore[arg-type]
    some.set_sregs(regs)  # type: ignore[arg-type]
    some.set_cpuid2(regs)  # type: ignore[arg-type]
    some.set_cpuid2([regs])  # type: ignore[list-item]


def exhaustive(some: vcpu.Vcpu) -> str:  # pragma: no cover
    """Every exit, for assert_never at the end; without one of them mypy finds the hole."""
    exit_ = some.run(timeout=None)
    match exit_:
        case e.IoExit() | e.MmioExit() | e.HltExit() | e.ShutdownExit() | e.FailEntryExit():
            return "a guest without confidential memory"
        case e.InternalErrorExit() | e.MemoryFaultExit() | e.HypercallExit() | e.SystemEventExit():
            return exit_.name
        case e.MsrExit() | e.DebugExit() | e.InterruptedExit() | e.HardwareExit():
            return exit_.name
        case e.ExceptionExit() | e.IrqWindowExit() | e.SetTprExit() | e.TprAccessExit():
            return exit_.name
        case e.NmiExit() | e.IoapicEoiExit() | e.HypervSynicExit() | e.HypervCallExit():
            return exit_.name
        case e.HypervDebugExit() | e.DirtyRingFullExit() | e.ApResetHoldExit() | e.BusLockExit():
            return exit_.name
        case e.XenExit() | e.NotifyExit() | e.TdxExit() | e.SnpReqCertsExit():
            return exit_.name
        case e.UnknownExit():
            return exit_.raw.hex()
        case _:
            assert_never(exit_)


def with_a_hole(some: vcpu.Vcpu) -> str:  # pragma: no cover
    exit_ = some.run()
    if isinstance(exit_, e.HltExit):
        return "halted"
    assert_never(exit_)  # type: ignore[arg-type]
