# SPDX-License-Identifier: MIT
"""Records: one per test, as a line of JSON, from the process that ran it to whoever reports it.

The file also carries events, the lines with a key ``event``: ``plan`` (the tests to come, each id
and node id), ``start`` (which one began, and its own deadline if it has one: it is the culprit when
nothing follows), ``end`` (of the session, with pytest's exit status), ``usage`` (the request was
wrong, and why). A line without ``event`` is a Record. hosts/supervise.py reads along.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from kvmharness.labels import HostLabel

#: `failed` is the kernel's doing; `error` is not: nothing is known of the kernel. What becomes
#: which stands in docs/formats.md.
Outcome = Literal["passed", "failed", "error", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "error", "skipped")
#: What formats with finer words tell apart: a failure that was expected (a skip), one for want of
#: time (an error when it was the whole run's), and a planned test that never began (an error).
Cause = Literal["", "expected", "timeout", "not-run"]


@dataclass(frozen=True)
class Record:
    """What became of one test.

    `reason` is one sentence, of what did not pass; `requirement` what a skip wanted; `report` the
    whole text of a failure or error; `ioctls` the last calls of such a test, one line each;
    `kernel_log` what the kernel said during it, or that made the kernel report a bug.
    """

    id: str
    nodeid: str
    outcome: Outcome
    host: str
    kernel: str
    emulated: bool
    seconds: float = 0.0
    reason: str = ""
    cause: Cause = ""
    requirement: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    report: str = ""
    ioctls: tuple[str, ...] = ()
    kernel_log: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, label: HostLabel, test_id: str, nodeid: str, outcome: Outcome, **values: Any
    ) -> Self:
        """Return the record of a test on the host with this label."""
        return cls(test_id, nodeid, outcome, label.kind, label.kernel, label.emulated, **values)

    @classmethod
    def of_host(cls, label: HostLabel, outcome: Outcome, **values: Any) -> Self:
        """Return a record about a host itself: it can't be had, or died between two tests."""
        return cls.of(label, label.kind, f"<{label.kind}>", outcome, **values)

    @property
    def is_of_host(self) -> bool:
        """Whether it is about the host itself, not about a test."""
        return self.nodeid.startswith("<")

    @property
    def ran(self) -> bool:
        """Whether the test began at all."""
        return self.cause != "not-run"

    @property
    def label(self) -> HostLabel:
        """The host it ran on."""
        return HostLabel(self.host, self.kernel)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


_FIELDS = {f.name for f in fields(Record)}


class RecordWriter:
    """Appends records and events to a file, each at once: whoever reads along sees them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def record(self, record: Record) -> None:
        """Write one record."""
        self._write(record.as_dict())

    def event(self, event: str, **values: Any) -> None:
        """Write one event."""
        self._write({"event": event, **values})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        # default=str: what a test attaches may be a Path, an enum or bytes.
        self._file.write(json.dumps(value, default=str) + "\n")
        self._file.flush()


def parse(line: str | bytes) -> Record | dict[str, Any] | None:
    """Parse one line; None for one that is damaged, as a crash in the middle of a write leaves."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if "event" in value:
        return value
    try:
        known = {name: content for name, content in value.items() if name in _FIELDS}
        for name in ("ioctls", "kernel_log"):
            known[name] = tuple(known.get(name, ()))
        return Record(**known)
    except TypeError:
        return None
