# SPDX-License-Identifier: MIT
"""A call of a launch that fails on purpose, and what is tried around it: SNP's and TDX's alike.

The stage, the same again, the rest of the launch; then what the stand-in was left with when the
guest is gone, and whether the next guest can be launched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kvmharness.scenarios.populate_bench import PopulateBench
from kvmharness.scenarios.staged_launch import StagedLaunch

#: Seconds after which what a guest has left behind counts as left.
_SETTLED = 0.05


class Failure(Protocol):
    """What a stand-in can be made to do: see its own."""

    @property
    def name(self) -> str:
        """The call that fails."""

    @property
    def after(self) -> int:
        """How many of them pass before."""


F = TypeVar("F", bound=Failure)
F_contra = TypeVar("F_contra", bound=Failure, contravariant=True)


@dataclass(frozen=True)
class Case(Generic[F]):
    """`stage` of the launch of a `vm`, and what fails in it: `label` and `how` end the id."""

    vm: str
    stage: str
    label: str
    how: str
    failures: tuple[F, ...]

    @property
    def id(self) -> str:
        """The scenario's."""
        return f"{self.vm}.failure.{self.stage}_{self.label}_{self.how}"

    @property
    def summary(self) -> str:
        """What fails when, in words."""
        return f"{self.stage}: " + ", ".join(
            f"{failure.name}, use {failure.after + 1}, {self.how}" for failure in self.failures
        )


class StandIn(Protocol[F_contra]):
    """What is asked of a stand-in: a module of standins."""

    def inject(self, *failures: F_contra) -> None:
        """Have these calls fail, and none that was to fail before."""

    def clear_injection(self) -> None:
        """Take back what has not struck."""

    def struck(self) -> int:
        """Return how many calls have failed on purpose since the host was booted."""

    def forget(self) -> None:
        """Have the stand-in give up what a failure left to nobody."""


@dataclass(frozen=True)
class Kind(Generic[F]):
    """What is different in one kind of confidential VM.

    A launch is complete before its stage `last`. `held` reads what the stand-in holds, of which
    `keys` are ASIDs or keys: `keys_are` in the outcome, as a guest is `guest_is`.
    """

    standin: StandIn[F]
    held: Callable[[], dict[str, int]]
    last: str
    keys: str
    keys_are: str
    guest_is: str


def fail(
    bench: PopulateBench,
    case: Case[F],
    kind: Kind[F],
    launch: Callable[[], StagedLaunch],
    next_launch: Callable[[], StagedLaunch],
) -> None:
    """Do a case: `launch` begins the launch that fails, `next_launch` that of the next guest."""
    before, struck = kind.held(), kind.standin.struck()
    bench.stack.callback(kind.standin.forget)
    failing = launch()
    complete = failing.reach(case.stage)
    kind.standin.inject(*case.failures)
    if case.stage != "close":
        bench.outcome.steps.append(failing.go(case.stage))
        kind.standin.clear_injection()
        bench.outcome.steps.append(failing.go(case.stage))
        complete = complete and failing.reach(kind.last) and bench.digest_is_right()
    failing.machine.close()
    left = _left_since(kind.held, before)
    kind.standin.clear_injection()
    bench.fact("the launch", "complete" if complete else "incomplete")
    bench.fact("failures", kind.standin.struck() - struck)
    keys = left.pop(kind.keys)
    note = ", ".join(f"{name} {count}" for name, count in left.items() if count)
    bench.fact("pages left", sum(left.values()), note)
    bench.fact(f"{kind.keys_are} left", keys)
    bench.outcome.keys_left = keys
    if keys or note:
        # The kernel has freed some of these pages: the next guest may get one, by chance.
        kind.standin.forget()
    after = next_launch()
    complete = after.reach(kind.last) and bench.digest_is_right()
    bench.forget_digest()
    after.machine.close()
    bench.fact(f"the next {kind.guest_is}", "complete" if complete else "incomplete")


def _left_since(held: Callable[[], dict[str, int]], before: dict[str, int]) -> dict[str, int]:
    """Wait until all is as before, or what is left stays; return how much more there is."""
    seen, since = held(), time.monotonic()
    while seen != before and time.monotonic() - since < _SETTLED:
        time.sleep(0.01)
        if (now := held()) != seen:
            seen, since = now, time.monotonic()
    return {name: count - before.get(name, 0) for name, count in seen.items()}
