# SPDX-License-Identifier: MIT
"""What became of a series as data: its builds, each scenario's two sides, a verdict; its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import kvmharness
from kvmharness import exit_status
from kvmharness.kernels.series import Series
from kvmharness.matrix.model import Cell, Column

SCHEMA = "kvmharness.series/1"

#: What a difference comes to. ``broken``: no kernel promises what the series does, or it took the
#: kernel down, made it report a bug or keep what is nobody's any more. ``changed``: another outcome
#: that some kernel promises, or that nothing is promised of, or that is meant. ``unsteady``: a
#: second boot showed no difference.
Kind = Literal["broken", "changed", "unsteady"]


@dataclass(frozen=True)
class Difference:
    """A scenario that came out differently with the series. `why`: what the verdict rests on."""

    scenario: str
    summary: str
    before: Cell
    after: Cell
    kind: Kind
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "id": self.scenario,
            "summary": self.summary,
            "verdict": self.kind,
            "why": self.why,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
        }


@dataclass(frozen=True)
class Side:
    """The scenarios of one VM type, on one kind of host, without and with the series."""

    vm_type: str
    before: Column
    after: Column
    differences: tuple[Difference, ...]
    compared: int
    #: Why some could not run on either side, and how many.
    not_run: Mapping[str, int] = field(default_factory=dict)
    #: Why nothing, or not all, is known that should be; empty if it is.
    unknown: str = ""
    #: Why there is no such host for this kernel; empty if there is.
    absent: str = ""
    #: With the series alone the host does not come up, or observes nothing: why. Empty otherwise.
    down: str = ""

    def of_kind(self, kind: Kind) -> list[Difference]:
        """Return the differences with a verdict."""
        return [each for each in self.differences if each.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "vm_type": self.vm_type,
            "host": self.after.label.kind,
            "emulated": self.after.label.emulated,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "compared": self.compared,
            "not_run": dict(self.not_run),
            "unknown": self.unknown,
            "absent": self.absent,
            "down": self.down,
            "differences": [each.as_json() for each in self.differences],
        }


@dataclass(frozen=True)
class Step:
    """A patch of the series by its number, from 1: whether the source builds up to it."""

    number: int
    title: str
    error: str = ""  # why it does not
    fuzz: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "number": self.number,
            "title": self.title,
            "builds": not self.error,
            "error": self.error,
            "fuzz": list(self.fuzz),
        }


@dataclass(frozen=True)
class First:
    """The first patch of the series with which a scenario comes out as it does at its end."""

    number: int
    title: str
    vm_type: str
    scenarios: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Review:
    """Everything that is known of a series."""

    series: Series
    kernel: str  # what it was applied to, by its label
    origin: str
    date: str
    patched: str = ""  # what the kernel with the series is called
    #: Why the series, whole, does not build; empty if it does.
    build_error: str = ""
    #: With --each: every patch. Otherwise none.
    steps: tuple[Step, ...] = ()
    fuzz: tuple[str, ...] = ()
    sides: tuple[Side, ...] = ()
    first: tuple[First, ...] = ()
    #: What was left out on purpose, in words.
    left_out: tuple[str, ...] = ()
    version: str = kvmharness.__version__

    @property
    def differences(self) -> list[Difference]:
        """All differences, of every VM type."""
        return [each for side in self.sides for each in side.differences]

    @property
    def broken_builds(self) -> list[Step]:
        """The patches up to which the source does not build."""
        return [step for step in self.steps if step.error]

    @property
    def broke(self) -> bool:
        """Whether something broke: a build, a promise, or the kernel."""
        return bool(
            self.build_error
            or self.broken_builds
            or any(side.down for side in self.sides)
            or any(each.kind == "broken" for each in self.differences)
        )

    @property
    def unknown(self) -> list[str]:
        """What could not be told, and why."""
        return list(dict.fromkeys(side.unknown for side in self.sides if side.unknown))

    @property
    def vouched_for(self) -> bool:
        """Whether it deserves a Tested-by: nothing broke, and nothing is unknown."""
        return not self.broke and not self.unknown and any(side.compared for side in self.sides)

    @property
    def changed(self) -> bool:
        """Whether a scenario comes out differently, for good or ill."""
        return any(each.kind != "unsteady" for each in self.differences)

    @property
    def status(self) -> int:
        """Return the exit status."""
        if self.broke:
            return exit_status.FAILED
        if self.unknown:
            return exit_status.FAILED
        if not any(side.compared for side in self.sides):
            return exit_status.NOTHING_RAN
        return exit_status.CHANGED if self.changed else 0

    def as_json(self) -> dict[str, Any]:
        """Return the review as plain data."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "date": self.date,
            "exit_status": self.status,
            "series": {
                "name": self.series.name,
                "digest": self.series.digest,
                "patches": [patch.title for patch in self.series.patches],
                "notes": list(self.series.notes),
                "not_applied": self.series.ignored,
            },
            "kernel": self.kernel,
            "kernel_origin": self.origin,
            "patched": self.patched,
            "emulated": True,
            "build_error": self.build_error,
            "fuzz": list(self.fuzz),
            "steps": [step.as_json() for step in self.steps],
            "first": [vars(first) | {"scenarios": list(first.scenarios)} for first in self.first],
            "left_out": list(self.left_out),
            "vm_types": [side.as_json() for side in self.sides],
        }


def render(review: Review) -> str:
    """Return the review as JSON."""
    return json.dumps(review.as_json(), indent=1) + "\n"
