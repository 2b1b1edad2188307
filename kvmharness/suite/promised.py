# SPDX-License-Identifier: MIT
"""What the contract promises of the kernel under test: the one reader for scenarios and tests."""

from __future__ import annotations

import os
from typing import Any

from kvmharness.contract import files
from kvmharness.kvm.result import Result
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.step import Call


def contract_release() -> str:
    """Return the release whose contract counts: ``KVMHARNESS_CONTRACT``, or the running one."""
    return os.environ.get("KVMHARNESS_CONTRACT") or os.uname().release


def hold(result: Result[Any], scenario: str, *steps: int, **context: Any) -> None:
    """Assert that a call's errno is what the contract promises of one of a scenario's `steps`.

    For tests that try in many ways what the scenario tries in one. Steps are counted from 1;
    `context` is told where the promise is broken.
    """
    release = contract_release()
    rows = files.load().rows_for(scenario, release)
    promised = {each.outcome[step - 1] for row in rows for each in row.promised for step in steps}
    call = Call.of(result.name, result)
    assert any(promise.admits(call) for promise in promised), "\n".join(
        (
            f"{result.name} gave {words(call)}, where {scenario} on {release} has "
            + " or ".join(sorted(map(str, promised))),
            *(f"  because: {row.why} [{row.kernels}: {row.origin}]" for row in rows),
            *(f"  {name}: {value}" for name, value in context.items()),
        )
    )
