# SPDX-License-Identifier: MIT
"""How code is to be entered: in which mode, by which vCPU, at which address."""

from __future__ import annotations

from typing import Self

from kvmharness.errors import HarnessError
from kvmharness.kvm.ffi import ffi
from kvmharness.machine import payload as payloads
from kvmharness.machine.payload import Mode, Payload
from kvmharness.record import Record

#: Where own code goes unless it is told: in the first segment, which every mode reaches.
CODE_GPA = 0x1000

#: The first address that no segment of real mode reaches: FFFF:FFFF and one.
_REAL_MODE_END = 0x10_FFF0

_REGISTERS = tuple(name for name, _ in ffi.typeof("struct kvm_regs").fields)


class EntryPlan(Record, frozen=True):
    """Code and its entry: `vcpu` None is all of them, `load_gpa` and `entry` are in bytes."""

    name: str
    image: bytes
    mode: Mode
    vcpu: int | None
    load_gpa: int
    entry: int
    registers: dict[str, int]

    @classmethod
    def of_payload(
        cls,
        payload: str | Payload,
        mode: Mode | str | None,
        vcpu: int | None,
        load_gpa: int | None,
        arguments: dict[str, int],
    ) -> Self:
        """Fill in what was left open; HarnessError if the payload does not run in `mode`."""
        image = payloads.load(payload) if isinstance(payload, str) else payload
        chosen = image.modes[-1] if mode is None else Mode(mode)
        if chosen not in image.modes:
            takes = ", ".join(image.modes)
            raise HarnessError(f"payload {image.name} does not run in {chosen}: it takes {takes}")
        where = image.load_gpa if load_gpa is None else load_gpa
        entry = image.entry - image.load_gpa + where
        registers = image.registers(**arguments)
        name = f"payload {image.name}"
        return cls(name, image.image, chosen, vcpu, where, entry, registers)

    @classmethod
    def of_code(
        cls,
        image: bytes,
        mode: Mode | str,
        vcpu: int | None,
        gpa: int,
        entry: int | None,
        registers: dict[str, int],
    ) -> Self:
        """Fill in what was left open; HarnessError for what can't be entered in `mode`."""
        chosen = Mode(mode)
        start = gpa if entry is None else entry
        if unknown := sorted(registers.keys() - set(_REGISTERS)):
            raise HarnessError(
                f"a vCPU has no register {unknown[0]!r}: code takes {', '.join(_REGISTERS)}"
            )
        if chosen is Mode.REAL and start >= _REAL_MODE_END:
            raise HarnessError(f"real mode can't be entered at {start:#x}: it is past FFFF:FFFF")
        if chosen is Mode.PROTECTED and start >= 1 << 32:
            raise HarnessError(f"protected mode can't be entered at {start:#x}: it has 32 bits")
        # The stack grows down from where the code begins; a stack at 0 would wrap.
        return cls("code", image, chosen, vcpu, gpa, start, {"rsp": gpa, **registers})
