# SPDX-License-Identifier: MIT
"""What a scenario showed: its steps one by one, the kernel's log, the launch digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kvmharness.errors import errno_name
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.step import Call, Fact, Step, Tally

_KINDS: dict[str, type[Call | Tally | Fact]] = {"call": Call, "tally": Tally, "fact": Fact}
#: Members that a step has in JSON only where there is something to tell.
_UNUSUAL = ("source_moved", "gpa_moved", "size_moved", "signal", "ioctl", "fw_error_name")
_OF_PAGES = ("asked", "done", "left", "written_back")


@dataclass
class Outcome:
    """All that a scenario showed. `steps` and `log` are what a contract row promises.

    `log` holds what the kernel said against itself; None where its log can't be read. `lost` is
    what an emulated host's firmware or TDX module was given otherwise than KVM was. `keys_left`
    are ASIDs or keys that a failure on purpose has left with nobody, for the rest of the boot.
    """

    scenario: str
    steps: list[Step] = field(default_factory=list)
    log: list[str] | None = field(default_factory=list)
    log_lines: list[str] = field(default_factory=list)
    digest: str | None = None
    predicted_digest: str | None = None
    lost: list[str] = field(default_factory=list)
    keys_left: int = 0
    rmp: dict[str, int] | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)

    @property
    def result(self) -> str:
        """``ok`` or an errno's name: what result_of() says of the steps."""
        return result_of(self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return what a record holds of it."""
        return {
            "scenario": self.scenario,
            "result": self.result,
            "steps": [step_as_json(step) for step in self.steps],
            "log": self.log,
            "log_lines": self.log_lines,
            "digest": self.digest,
            "predicted_digest": self.predicted_digest,
            "lost": self.lost,
            "rmp": self.rmp,
            "trace": self.trace,
        }


def result_of(steps: Sequence[Step]) -> str:
    """Return ``ok`` or an errno's name: what the last call, or the last of many, came to.

    Facts have no say in it; without anything else it is ``ok``.
    """
    for step in reversed(steps):
        if isinstance(step, Call):
            return errno_name(step.errno)
        if isinstance(step, Tally):
            return step.result
    return "ok"


def step_as_json(step: Step) -> dict[str, Any]:
    """Return a step as plain data: its kind, its words, its numbers."""
    kind = next(name for name, made in _KINDS.items() if isinstance(step, made))
    values = asdict(step)
    if isinstance(step, Call):
        values["written_back"] = {name: [*both] for name, both in step.written_back.items()}
    left_out = [name for name in _UNUSUAL if values.get(name, "") in (None, "")]
    if isinstance(step, Call) and step.asked is None:
        left_out += _OF_PAGES
    for name in left_out:
        values.pop(name, None)
    return {"step": kind, "words": words(step), **values}


def step_from_json(values: Mapping[str, Any]) -> Step:
    """Return the step that step_as_json() described. KeyError or ValueError for what is none."""
    made = _KINDS[values["step"]]
    names = {each.name for each in fields(made)}
    held = {name: value for name, value in values.items() if name in names}
    if back := held.get("written_back"):
        held["written_back"] = {name: (was, now) for name, (was, now) in back.items()}
    return made(**held)
