# SPDX-License-Identifier: MIT
"""Steps and promises made of a contract's words."""

from __future__ import annotations

import errno

from kvmharness.scenarios.grammar import Established, Promise, Tallied, parse
from kvmharness.scenarios.step import SIGNALS, Call, Fact, Step, Tally

#: A firmware code, whatever its name.
FIRMWARE = 0x16


def promises(*texts: str) -> tuple[Promise, ...]:
    return tuple(map(parse, texts))


def step(text: str, label: str = "call") -> Step:
    """The step that shows a promise and no more: of a tally, what has to occur once each."""
    promise = parse(text)
    if isinstance(promise, Established):
        return Fact(label, promise.answer)
    if isinstance(promise, Tallied):
        return Tally(label, dict.fromkeys(sorted(promise.required), 1))
    signal = promise.verdict if promise.verdict in SIGNALS else ""
    named = {"ok": 0, "EOPNOTSUPP": errno.EOPNOTSUPP} | dict.fromkeys(SIGNALS, errno.EFAULT)
    number = named.get(promise.verdict) or int(getattr(errno, promise.verdict, 0))
    done, left = promise.progress or (None, None)
    asked = None if done is None or left is None else done + left
    if asked is not None and asked == (left if number else done):
        asked += 1  # a kernel that lost a page: else the promise would not have said it
    return Call(
        label,
        number,
        FIRMWARE if promise.firmware else 0,
        promise.firmware,
        asked=asked,
        done=done,
        left=left,
        source_moved=promise.source,
        gpa_moved=promise.gpa,
        size_moved=promise.size,
        signal=signal,
    )
