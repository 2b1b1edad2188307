# SPDX-License-Identifier: MIT
"""Where a scenario works: what it records, and what is closed when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from kvmharness.kvm.fd import OwnedFd
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.step import Call, Fact, Tally

if TYPE_CHECKING:
    from kvmharness.kvm.result import Result
    from kvmharness.kvm.system import Kvm

T = TypeVar("T")
C = TypeVar("C", bound=OwnedFd)


class Bench:
    """/dev/kvm, the steps so far, and a stack of what is to be closed at the end.

    A VM type's own bench knows how its VMs are made, and asks the stand-in that an emulated host of
    that type has.
    """

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        self.kvm = kvm
        self.outcome = outcome
        self.stack = ExitStack()

    def predicted_digest(self) -> str | None:
        """The digest this launch must have by now, in hex; None where it is not followed."""
        return None

    def launch_digest(self) -> str | None:
        """The digest as an emulated host's firmware has it; None where there is none to ask."""
        return None

    def lost(self) -> list[str]:
        """What the firmware or TDX module was given otherwise than KVM was, one line each.

        None where there is nobody to ask.
        """
        return []

    def take_locks(self) -> None:
        """Take each lock of the VM that there is: one that a call kept is found here."""

    def page_counts(self) -> dict[str, int] | None:
        """The pages that an emulated host's firmware holds, by state; None without one."""
        return None

    def step(self, label: str, result: Result[T]) -> Result[T]:
        """Record a call that the contract holds the kernel to; gives the result back."""
        self.outcome.steps.append(Call.of(label, result))
        return result

    def tally(self, label: str, calls: Iterable[Result[Any] | Call]) -> None:
        """Record what many calls came to, where a race decides which of them fail."""
        self.outcome.steps.append(Tally.of(label, calls))

    def fact(self, label: str, answer: str | int, note: str = "") -> None:
        """Record something established otherwise than by one call's result.

        `answer` is a number or a word of step.ANSWERS; `note` says more to a person.
        """
        self.outcome.steps.append(Fact(label, str(answer), note))

    def keep(self, created: Result[C]) -> Result[C]:
        """Have what a call created closed at the end, if it did create it; gives the result."""
        if created.value is not None:
            self.stack.enter_context(created.value)
        return created
