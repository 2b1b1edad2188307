# SPDX-License-Identifier: MIT
"""Each pointer that a TD's launch gives to KVM: not there, there by half, not to be written.

``tdx.pointer.COMMAND_WHAT_HOW``: the command with that pointer, then with a good one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import make
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.raw import raw_ioctl
from kvmharness.kvm.result import Result
from kvmharness.machine.machine import Machine
from kvmharness.scenarios.placed import BAD, HALF, READONLY, placed
from kvmharness.scenarios.tdx_bench import TdxBench, tdx_scenario
from kvmharness.standins import tdx as tdx_standin

_PAGES = 4
_ENTRIES = 256


@dataclass(frozen=True)
class _Command:
    """A command of KVM_MEMORY_ENCRYPT_OP: its number, its parameters, and the fd it goes to."""

    name: str
    fd: int
    parameters: bytes
    flags: int = 0
    value: int | None = None

    @property
    def number(self) -> int:
        return int(getattr(lib, f"KVM_TDX_{self.name.upper()}"))

    def issue(self, parameters: int) -> Result[int]:
        """With the parameters at this address."""
        return raw_ioctl(self.fd, "KVM_MEMORY_ENCRYPT_OP", self._command(parameters))

    def issue_at(self, how: str) -> Result[int]:
        """With the command itself where `how` says."""
        inside = ffi.from_buffer(self.parameters) if self.parameters else None
        at = self.value if self.value is not None else 0
        if inside is not None:
            at = int(ffi.cast("uintptr_t", inside))
        command = self._command(at)
        with placed(bytes(ffi.buffer(command)), how) as address:
            return raw_ioctl(self.fd, "KVM_MEMORY_ENCRYPT_OP", address)

    def _command(self, data: int) -> object:
        return make("struct kvm_tdx_cmd *", id=self.number, flags=self.flags, data=data)


def _ready(bench: TdxBench, stage: str) -> tuple[Machine, _Command]:
    """A TD that takes `stage`, and that command."""
    if stage in ("capabilities", "init_vm"):
        machine = bench.make(initialized=False, vcpus=0)
        machine.enable_split_irqchip()
        if stage == "capabilities":
            size = ffi.sizeof("struct kvm_tdx_capabilities") + 64 * 40
            data = bytearray(size)
            offset = ffi.offsetof("struct kvm_tdx_capabilities", "cpuid")
            data[offset : offset + 4] = (64).to_bytes(4, "little")
            return machine, _Command(stage, machine.fileno(), bytes(data))
        return machine, _Command(stage, machine.fileno(), _init_vm(bench, machine))
    machine = bench.make()
    vcpu = machine.vcpus[0].fileno()
    if stage == "init_vcpu":
        return machine, _Command(stage, vcpu, b"", value=0x1234)
    machine.set_private(0, _PAGES * PAGE_SIZE)
    if stage == "get_cpuid":
        data = bytearray(8 + 40 * _ENTRIES)
        data[:4] = _ENTRIES.to_bytes(4, "little")
        return machine, _Command(stage, vcpu, bytes(data))
    machine.tdx_vcpu().init_vcpu()
    if stage == "finalize_vm":
        return machine, _Command(stage, machine.fileno(), b"", value=0)
    region = make(
        "struct kvm_tdx_init_mem_region *",
        source_addr=bench.source("aligned", _PAGES).address,
        gpa=0,
        nr_pages=_PAGES,
    )
    flags = int(lib.KVM_TDX_MEASURE_MEMORY_REGION)
    return machine, _Command(stage, vcpu, bytes(ffi.buffer(region)), flags)


def _init_vm(bench: TdxBench, machine: Machine) -> bytes:
    header = make("struct kvm_tdx_init_vm *")
    before = ffi.offsetof("struct kvm_tdx_init_vm", "cpuid")
    return bytes(ffi.buffer(header))[:before] + bytes(bench.cpuid_of_td(machine))


def _try(bench: TdxBench, stage: str, what: str, how: str) -> None:
    machine, command = _ready(bench, stage)
    if what == "command":
        result = command.issue_at(how)
    else:
        with placed(command.parameters, how) as address:
            result = command.issue(address)
    bench.step(f"{stage.upper()}, {what} {how}", result)
    bench.fact("pages of the TD", (tdx_standin.page_counts() or {}).get("reg", 0))
    keys = (tdx_standin.page_counts() or {}).get("keyids", 0)
    bench.fact("keys in use", keys)
    bench.step(f"{stage.upper()} again", _again(machine, command))


def _again(machine: Machine, command: _Command) -> Result[int]:
    if not command.parameters:
        return command.issue(command.value or 0)
    copy = ffi.new("char[]", command.parameters)
    result = command.issue(int(ffi.cast("uintptr_t", copy)))
    del copy, machine
    return result


_STAGES: dict[str, tuple[str, ...]] = {
    "capabilities": ("struct", "command"),
    "init_vm": ("struct", "command"),
    "init_vcpu": ("command",),
    "get_cpuid": ("struct", "command"),
    "init_mem_region": ("struct", "command"),
    "finalize_vm": ("command",),
}
_WHERE = {BAD: "is not there", HALF: "ends too early", READONLY: "can't be written"}


def _declare(stage: str, what: str, how: str) -> Callable[[TdxBench], None]:
    shown = {"struct": "parameters", "command": "command itself"}[what]
    return tdx_scenario(
        f"tdx.pointer.{stage}_{what}_{how}",
        f"{stage.upper()}: the {shown} {_WHERE[how]}",
        "standin",
    )(functools.partial(_try, stage=stage, what=what, how=how))


for _stage, _parts in _STAGES.items():
    for _what in _parts:
        for _how in _WHERE:
            # Half of the room for a CPUID is room enough.
            if (_stage, _what, _how) != ("get_cpuid", "struct", HALF):
                _declare(_stage, _what, _how)
