# SPDX-License-Identifier: MIT
"""How a payload is to be entered: in which mode, by which vCPU, at which address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from kvmharness.errors import HarnessError
from kvmharness.machine import payload as payloads
from kvmharness.machine.payload import Mode, Payload


@dataclass(frozen=True)
class PayloadPlan:
    """A payload and its entry: `vcpu` None is all of them, `load_gpa` is in bytes."""

    payload: Payload
    mode: Mode
    vcpu: int | None
    load_gpa: int
    registers: dict[str, int]

    @classmethod
    def of(
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
        return cls(image, chosen, vcpu, where, image.registers(**arguments))
