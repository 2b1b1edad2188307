# SPDX-License-Identifier: MIT
"""What one step of a scenario showed, as data: a call, what many calls came to, or a fact.

grammar.py has the words for these; nothing else turns a step into text, or text into a promise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvmharness.errors import errno_name
from kvmharness.kvm.exits import REASON_NAMES
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result

#: What a fact may answer, beside a number, a count such as ``64 of 64``, and a KVM_EXIT_* name.
ANSWERS = frozenset(
    (
        # A page, a digest, a state: against what it was before.
        *("same", "changed", "as before"),
        # What became of a source: the firmware put right values into it, the kernel something.
        *("corrected", "overwritten", "unchanged"),
        # What memory holds.
        *("zeros", "not zeros"),
        # What a command told: as much as there is, or not.
        *("complete", "incomplete", "exact", "not exact"),
        # How many pages one call of a race added.
        *("all or none", "some"),
        # What a limit is.
        *("processors", "not processors"),
        # Whether a process has written a page of its memory, or somebody for it.
        *("dirtied", "not dirtied"),
        # Whether what a race is about has come up in it.
        *("met", "not met"),
    )
)
_COUNT = re.compile(r"\d+|0x[0-9a-f]+|\d+ of \d+|KVM_EXIT \d+")

#: Signals that end a touch of memory; as a call it would have been EFAULT.
SIGNALS = ("SIGBUS", "SIGSEGV")


@dataclass(frozen=True)
class Call:
    """One call. What populates has `asked`, `done` and `left`, in pages, else they are None.

    `ioctl` is its name: the ioctl's, its sub-command's or the system call's.
    `fw_error` is the firmware's or TDX module's code where the call has one. `source_moved`,
    `gpa_moved` and `size_moved` are in bytes, None where they are as `done` has it: both addresses
    on by that many pages, the size less by whole pages. `written_back` is for a person: each field
    that the kernel advances, before and after. `signal` is set for a touch of memory that failed.
    """

    label: str
    errno: int = 0
    fw_error: int | None = None
    fw_error_name: str = ""
    asked: int | None = None
    done: int | None = None
    left: int | None = None
    source_moved: int | None = None
    gpa_moved: int | None = None
    size_moved: int | None = None
    signal: str = ""
    ioctl: str = ""
    written_back: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.errno == 0

    @property
    def whole(self) -> bool:
        """Whether it did what its result says: everything if it succeeded, nothing if not."""
        if self.asked is None:
            return True
        return (self.done, self.left) == ((self.asked, 0) if self.ok else (0, self.asked))

    @classmethod
    def of(cls, label: str, result: Result[Any]) -> Call:
        """Return the step that a call's result makes."""
        return cls(label, result.errno, result.fw_error, result.fw_error_name, ioctl=result.name)

    @classmethod
    def of_pages(
        cls,
        label: str,
        result: Result[Any],
        passed: Mapping[str, int],
        *,
        moves_source: bool = True,
    ) -> Call:
        """Return the step of a call that works off pages and writes back how far it came.

        `passed` are the fields it advances, in the struct's order, as they were before: ``gpa``,
        ``source`` if it has one, and the size in ``bytes`` or ``pages``.
        """
        if result.written_back is None:
            return cls.of(label, result)
        back = dict(zip(passed, result.written_back, strict=True))
        moved = _distance(passed["gpa"], back["gpa"])
        done = max(moved, 0) // PAGE_SIZE
        size, unit = ("pages", 1) if "pages" in passed else ("bytes", PAGE_SIZE)
        asked = -(-passed[size] // unit)
        less, odd = divmod(passed[size] - back[size], unit)
        source = _distance(passed["source"], back["source"]) if "source" in passed else None
        expected = done * PAGE_SIZE if moves_source else 0
        return cls(
            label,
            result.errno,
            result.fw_error,
            result.fw_error_name,
            asked=asked,
            done=done,
            left=asked - less,
            source_moved=None if source == expected else source,
            gpa_moved=None if moved == done * PAGE_SIZE else moved,
            size_moved=back[size] - passed[size] if odd else None,
            ioctl=result.name,
            written_back={name: (passed[name], back[name]) for name in passed},
        )


@dataclass(frozen=True)
class Tally:
    """What many calls of `ioctl` came to: how often each errno's name, or ``ok``. For races."""

    label: str
    counts: Mapping[str, int]
    ioctl: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Those that occurred."""
        return frozenset(name for name, times in self.counts.items() if times)

    @property
    def result(self) -> str:
        """``ok`` if any call was, else an errno's name; without any call ``ok`` too."""
        return "ok" if "ok" in self.names or not self.names else sorted(self.names)[0]

    @classmethod
    def of(cls, label: str, calls: Iterable[Result[Any] | Call]) -> Tally:
        """Return the step that many calls make."""
        held = list(calls)
        names = [call.ioctl if isinstance(call, Call) else call.name for call in held[:1]]
        return cls(label, dict(Counter(errno_name(call.errno) for call in held)), *names)


@dataclass(frozen=True)
class Fact:
    """The answer to a question, such as whether the source page changed; a note for a person.

    ValueError for an answer outside the vocabulary, which a contract could not promise.
    """

    label: str
    answer: str
    note: str = ""

    def __post_init__(self) -> None:
        if not is_answer(self.answer):
            raise ValueError(f"{self.answer!r} is no answer to a question: see step.ANSWERS")


Step = Call | Tally | Fact


def is_answer(text: str) -> bool:
    """Whether a fact may have this answer."""
    return bool(text in ANSWERS or _COUNT.fullmatch(text) or text in REASON_NAMES.values())


def _distance(before: int, after: int) -> int:
    """Return how far a 64-bit address moved; past the end it begins at 0 again."""
    ahead = (after - before) % (1 << 64)
    return ahead - (1 << 64) if ahead >> 63 else ahead
