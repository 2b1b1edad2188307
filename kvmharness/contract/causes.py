# SPDX-License-Identifier: MIT
"""Why a call fails: the promises in which an ioctl gives an errno."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kvmharness.contract.rows import Contract, Row
from kvmharness.scenarios.grammar import Called, Promise, Tallied


@dataclass
class Cause:
    """One promise with the errno in it, and where: the step's number and words, by scenario."""

    row: Row
    steps: dict[str, list[tuple[int, Promise]]] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """What the steps say, each once."""
        return list(
            dict.fromkeys(str(words) for steps in self.steps.values() for _, words in steps)
        )

    @property
    def firmware(self) -> list[str]:
        """The firmware's codes in them."""
        codes = (
            promise.firmware
            for steps in self.steps.values()
            for _, promise in steps
            if isinstance(promise, Called)
        )
        return list(dict.fromkeys(code for code in codes if code))


def ioctls(contract: Contract, scenarios: Sequence[str]) -> list[str]:
    """Return the calls that scenarios make: ioctls, their sub-commands, system calls."""
    return sorted({call for each in scenarios for call in contract.calls(each) if call[0] != "="})


def causes(
    contract: Contract,
    scenarios: Sequence[str],
    ioctl: str | None,
    errno: str,
    kernel: str | None,
) -> list[Cause]:
    """Return the promises of a kernel (None: of any) in which `ioctl` (None: any) gives `errno`."""
    found: dict[Row, Cause] = {}
    for scenario in scenarios:
        calls = contract.calls(scenario)
        rows = contract.of(scenario) if kernel is None else contract.rows_for(scenario, kernel)
        for row in rows:
            steps = [
                (number, promise)
                for number, call, promise in _steps(calls, row)
                if ioctl in (None, call) and errno in verdicts(promise)
            ]
            if steps:
                found.setdefault(row, Cause(row)).steps[scenario] = steps
    return list(found.values())


def errnos(contract: Contract, scenarios: Sequence[str], ioctl: str | None) -> list[str]:
    """Return the errno names that `ioctl` (None: any call) is known to give on some kernel."""
    return sorted(
        {
            name
            for scenario in scenarios
            for row in contract.of(scenario)
            for _, call, promise in _steps(contract.calls(scenario), row)
            if ioctl in (None, call)
            for name in verdicts(promise)
        }
        - {"ok"}
    )


def verdicts(promise: Promise) -> frozenset[str]:
    """Return the errno names that a promise admits; ``ok`` among them."""
    if isinstance(promise, Called):
        return frozenset((promise.verdict,))
    if isinstance(promise, Tallied):
        return promise.required | promise.optional
    return frozenset()


def _steps(calls: Sequence[str], row: Row) -> Iterator[tuple[int, str, Promise]]:
    for one in row.promised:
        for number, (call, promise) in enumerate(zip(calls, one.outcome, strict=True), 1):
            yield number, call, promise
