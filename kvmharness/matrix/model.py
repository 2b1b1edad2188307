# SPDX-License-Identifier: MIT
"""A matrix as data: kernels across, scenarios down, what was seen in each cell; and its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import kvmharness
from kvmharness.errors import UsageError
from kvmharness.labels import HostLabel
from kvmharness.scenarios import grammar
from kvmharness.scenarios.outcome import step_as_json, step_from_json
from kvmharness.scenarios.step import Call, Step
from kvmharness.selection import topic

SCHEMA = "kvmharness.matrix/2"

#: The result of a scenario that has no outcome: it could not run, or it took the process or the
#: kernel down, or did not end, or failed by itself. `reason` says more.
SKIP, CRASH, HANG, ERROR = "skip", "crash", "hang", "error"
NOT_OUTCOMES = (SKIP, CRASH, HANG, ERROR)

#: What a cell comes to, for colours and counts; the worst that holds.
Kind = Literal["ok", "partial", "refused", "firmware", "warning", "crash", "skip"]
KINDS: dict[Kind, str] = {
    "ok": "every call succeeded",
    "partial": "some calls succeeded, or one in part",
    "refused": "refused by the kernel",
    "firmware": "refused by the firmware or TDX module",
    "warning": "the kernel reported a bug in itself",
    "crash": "no outcome: the kernel or the process went down, or hung",
    "skip": "could not run here",
}

#: Behind a release: what was made of the kernel (7.3.4+series.mbox), and no distribution's own +.
_CHANGED = re.compile(r"\+(?!deb|bpo|dfsg)\S|:\S")

#: `` x3`` after what repeats.
_TIMES = " x{}"


@dataclass(frozen=True)
class Cell:
    """What one kernel did with one scenario.

    `result` is ``ok``, an errno's name, or one of NOT_OUTCOMES. `log` is what of the kernel's log a
    contract can promise, None where it could not be read; `log_lines` all of it. `trace` holds a
    line for each ioctl. `contract` says whether the outcome is what the contract promises of this
    kernel: ``kept``, ``broken``, or empty for no promise. `held` says what the kernel still held
    when it was over, where that can be seen: a leak, unless the scenario leaves it on purpose.
    """

    result: str
    reason: str = ""
    steps: tuple[Step, ...] = ()
    log: tuple[str, ...] | None = ()
    log_lines: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    digest: str | None = None
    predicted_digest: str | None = None
    rmp: Mapping[str, int] | None = None
    contract: str = ""
    held: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether there is an outcome to compare: everything but a skip is one."""
        return self.result != SKIP

    def alike(self, other: Cell) -> bool:
        """Whether both show the same, step by step and in the kernel's log."""
        if self.result in NOT_OUTCOMES or other.result in NOT_OUTCOMES:
            return self.result == other.result
        return (
            len(self.steps) == len(other.steps)
            and all(map(grammar.alike, self.steps, other.steps))
            and self._logs_alike(other)
        )

    def _logs_alike(self, other: Cell) -> bool:
        return None in (self.log, other.log) or set(self.log or ()) == set(other.log or ())

    @property
    def _log_json(self) -> list[str] | None:
        return None if self.log is None else list(self.log)

    @property
    def words(self) -> str:
        """The outcome in a few words: ``EINVAL x3; ok``, and what the kernel's log adds."""
        if self.result in NOT_OUTCOMES:
            return self.result
        return "; ".join([*self._step_words(), *_counted(self.log or ())])

    @property
    def brief(self) -> str:
        """As `words`, without the names of the functions that the kernel's log gives."""
        if self.result in NOT_OUTCOMES:
            return self.result
        logged = [line.split()[0] for line in self.log or ()]
        return "; ".join([*self._step_words(), *_counted(logged)])

    def _step_words(self) -> list[str]:
        return _counted(map(grammar.words, self.steps))

    @property
    def kind(self) -> Kind:
        """What it comes to. Which of a race's many calls failed is chance, and does not count."""
        if self.result == SKIP:
            return "skip"
        if self.result in NOT_OUTCOMES:
            return "crash"
        if self.log:
            return "warning"
        calls = self._calls
        refused = [call for call in calls if not call.ok]
        if not refused:
            return "partial" if any(call.left for call in calls) else "ok"
        if len(refused) < len(calls) or any(call.done for call in refused):
            return "partial"
        return "firmware" if any(call.fw_error for call in refused) else "refused"

    @property
    def _calls(self) -> list[Call]:
        return [step for step in self.steps if isinstance(step, Call)]

    @property
    def fw_error(self) -> int:
        """The last firmware error of any step, 0 if there was none."""
        return next((call.fw_error for call in reversed(self._calls) if call.fw_error), 0)

    @property
    def remaining(self) -> int | None:
        """The pages that the last populate wrote back as left to do; None without one."""
        return next((call.left for call in reversed(self._calls) if call.left is not None), None)

    def as_json(self) -> dict[str, Any]:
        """Return the cell for a matrix's JSON; a skip has nothing but its reason."""
        if self.result in NOT_OUTCOMES:
            values: dict[str, Any] = {"result": self.result, "reason": self.reason}
            if self.log_lines:
                values |= {"log": self._log_json, "log_lines": list(self.log_lines)}
            return values
        return {
            "result": self.result,
            "fw_error": self.fw_error,
            "remaining": self.remaining,
            "log": self._log_json,
            "words": self.words,
            "kind": self.kind,
            "contract": self.contract,
            "steps": [step_as_json(step) for step in self.steps],
            "log_lines": list(self.log_lines),
            "digest": self.digest,
            "predicted_digest": self.predicted_digest,
            "rmp": self.rmp,
            "trace": list(self.trace),
            "held": list(self.held),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """Return the cell that as_json() or a record of observe.py describes."""
        return cls(
            result=str(values["result"]),
            reason=str(values.get("reason", "")),
            steps=tuple(map(step_from_json, values.get("steps", ()))),
            log=None if (log := values.get("log", ())) is None else tuple(log),
            log_lines=tuple(values.get("log_lines", ())),
            trace=tuple(values.get("trace", ())),
            digest=values.get("digest"),
            predicted_digest=values.get("predicted_digest"),
            rmp=values.get("rmp"),
            contract=str(values.get("contract", "")),
            held=tuple(values.get("held", ())),
        )


@dataclass(frozen=True)
class Column:
    """A kernel on a host. `name` is unique in its matrix; `facts` are the host's.

    `absent` says why nothing was observed: there is no such host, and its cells are all skips, or
    it did not boot or was not come to, and they are all errors. `seconds` is what observing it
    took, 0 for what was cached.
    """

    name: str
    label: HostLabel
    facts: Mapping[str, Any]
    cells: Mapping[str, Cell]
    absent: str = ""
    seconds: float = 0.0

    @property
    def short(self) -> str:
        """The name without a distribution's suffix: ``6.12.107``; any other's as it is.

        What else it was booted with stays: ``7.3.4 kvm.tdp_mmu=0``.
        """
        release, *varied = self.name.split(" ")
        match = re.match(r"\d+\.\d+(\.\d+)?(-rc\d+)?", release)
        if match is None or _CHANGED.match(release, match.end()):
            return self.name
        return " ".join([match[0], *varied])

    @property
    def tells_release(self) -> bool:
        """Whether the short name says which kernel release it is; a tree's does not."""
        return self.label.kernel.startswith(self.short.partition(" ")[0])

    def as_json(self) -> dict[str, Any]:
        """Return what a matrix's JSON says of the host."""
        return {
            **self.facts,
            "kind": self.label.kind,
            "kernel": self.label.kernel,
            "emulated": self.label.emulated,
            "words": self.label.words,
            "short": self.short,
            "absent": self.absent,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Change:
    """Between two kernels (columns' names) an outcome changed; why, as the contract has it."""

    before: str
    after: str
    commit: str = ""
    why: str = ""
    source: str = ""
    kernels: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the change for a matrix's JSON."""
        return {
            "from": self.before,
            "to": self.after,
            "commit": self.commit,
            "why": self.why,
            "source": self.source,
            "kernels": self.kernels,
        }


@dataclass(frozen=True)
class Row:
    """A scenario across all kernels: a cell for each column's name."""

    id: str
    summary: str
    cells: Mapping[str, Cell]
    changes: tuple[Change, ...] = ()

    @property
    def topic(self) -> str:
        """The id without its last part."""
        return topic(self.id)

    @property
    def changed(self) -> bool:
        """Whether kernels that could run it differ."""
        return bool(self.changes)

    def steps_apart(self, names: Sequence[str]) -> list[tuple[list[str], Cell]]:
        """Return runs of columns that follow one another and are alike, each with its cell."""
        runs: list[tuple[list[str], Cell]] = []
        for name in names:
            cell = self.cells[name]
            if runs and runs[-1][1].alike(cell):
                runs[-1][0].append(name)
            else:
                runs.append(([name], cell))
        return runs


@dataclass(frozen=True)
class Matrix:
    """What several kernels did with the same scenarios."""

    vm_type: str
    date: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    version: str = kvmharness.__version__
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> list[Row]:
        """The rows on which kernels differ."""
        return [row for row in self.rows if row.changed]

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return [column.name for column in self.columns]

    @property
    def emulated(self) -> bool:
        """Whether any column was seen on an emulated host."""
        return any(column.label.emulated for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the column called `name`."""
        return next(column for column in self.columns if column.name == name)

    def label_words(self) -> str:
        """Say where this was seen, and what it is not."""
        kinds = list(dict.fromkeys(column.label.kind for column in self.columns))
        words = " and ".join(kinds) + (" hosts" if len(self.columns) > 1 else " host")
        if not self.emulated:
            return words
        if all(column.label.emulated for column in self.columns):
            return f"{words}: emulated, not a hardware result"
        which = ", ".join(column.short for column in self.columns if column.label.emulated)
        return f"{words}: {which} emulated, not a hardware result"

    def as_json(self) -> dict[str, Any]:
        """Return the matrix as plain data."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "date": self.date,
            "vm_type": self.vm_type,
            "emulated": self.emulated,
            "kernels": self.names,
            "hosts": {column.name: column.as_json() for column in self.columns},
            "scenarios": [
                {
                    "id": row.id,
                    "topic": row.topic,
                    "summary": row.summary,
                    "changed": row.changed,
                    "changes": [change.as_json() for change in row.changes],
                    "outcomes": {name: cell.as_json() for name, cell in row.cells.items()},
                }
                for row in self.rows
            ],
        }


def render(matrix: Matrix) -> str:
    """Return the matrix as JSON."""
    return json.dumps(matrix.as_json(), indent=1) + "\n"


def load(path: str | Path) -> Matrix:
    """Load a matrix written with --json. UsageError, in one line, for what is none."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{path} is not a matrix ({SCHEMA}): its schema is {schema!r}")
    try:
        return _parse(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is a damaged matrix: {error!r}") from None


def _parse(values: Mapping[str, Any]) -> Matrix:
    names = [str(name) for name in values["kernels"]]
    rows = []
    for scenario in values["scenarios"]:
        outcomes = scenario["outcomes"]
        rows.append(
            Row(
                id=scenario["id"],
                summary=scenario.get("summary", ""),
                cells={name: Cell.from_json(outcomes[name]) for name in names},
                changes=tuple(
                    Change(
                        change["from"],
                        change["to"],
                        change.get("commit", ""),
                        change.get("why", ""),
                        change.get("source", ""),
                        change.get("kernels", ""),
                    )
                    for change in scenario.get("changes", ())
                ),
            )
        )
    columns = []
    derived = {"kind", "kernel", "emulated", "words", "short", "absent", "seconds"}
    for name in names:
        host = values["hosts"][name]
        columns.append(
            Column(
                name,
                HostLabel(host["kind"], host["kernel"]),
                {key: value for key, value in host.items() if key not in derived},
                {row.id: row.cells[name] for row in rows},
                host.get("absent", ""),
                host.get("seconds", 0.0),
            )
        )
    return Matrix(values["vm_type"], values["date"], tuple(columns), tuple(rows), values["version"])


def _counted(texts: Iterable[str]) -> list[str]:
    """Join repetitions that follow one another: ``EINVAL x3``."""
    result: list[str] = []
    previous, times = None, 0
    for text in texts:
        times = times + 1 if text == previous else 1
        if times > 1:
            result[-1] = text + _TIMES.format(times)
        else:
            result.append(text)
        previous = text
    return result
