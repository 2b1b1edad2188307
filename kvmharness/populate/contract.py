# SPDX-License-Identifier: MIT
"""What each kernel generation promises for each scenario, and whether an outcome keeps it.

The promises are rows of the contract*.toml files beside this one. A row holds from a kernel series
to another, and says where it comes from: releases it was seen on, or source it was read in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kvmharness.errors import HarnessError
from kvmharness.populate.outcome import Outcome

Series = tuple[int, int]

_FOLDER = Path(__file__).parent
_KEYS = {"scenario", "from", "to", "outcome", "or", "log", "seen", "read", "commit", "why"}


class ContractError(HarnessError):
    """The contract is malformed, or has no row where one is needed."""


@dataclass(frozen=True)
class Row:
    """One promise: `outcome` is a text for each step, `log` what the kernel's log shows.

    `alternatives` are outcomes that are as good, with nothing in the log: a fix that some point
    releases of a series have.
    `first` and `last` are kernel series, None where open. `seen` lists releases it was observed
    on, `read` names the source it was read in; one of them is there. `commit` made it so.
    """

    scenario: str
    first: Series | None
    last: Series | None
    outcome: tuple[str, ...]
    log: tuple[str, ...]
    seen: tuple[str, ...]
    read: str
    commit: str
    why: str
    alternatives: tuple[tuple[str, ...], ...] = ()

    def holds_for(self, series: Series) -> bool:
        """Whether a kernel of `series` is held to this row."""
        return (self.first is None or self.first <= series) and (
            self.last is None or series <= self.last
        )

    @property
    def kernels(self) -> str:
        """The generation in words: ``up to 6.18``, ``7.0 to 7.2``, ``from 7.3``."""
        if self.first and self.last:
            return f"{_text(self.first)} to {_text(self.last)}"
        if self.first:
            return f"from {_text(self.first)}"
        return f"up to {_text(self.last)}" if self.last else "every kernel"

    @property
    def origin(self) -> str:
        """Where the row comes from, in words."""
        parts = []
        if self.seen:
            parts.append("seen on " + ", ".join(self.seen))
        if self.read:
            parts.append("read in " + self.read)
        if self.commit:
            parts.append("commit " + self.commit)
        return "; ".join(parts)

    def keeps(self, outcome: Outcome) -> bool:
        """Whether `outcome` is what this row promises."""
        signature, log = tuple(outcome.signature), set(outcome.log)
        if signature == self.outcome:
            return log == set(self.log)
        return signature in self.alternatives and not log


class Contract:
    """All rows, by scenario."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            others = self.rows.setdefault(row.scenario, [])
            for other in others:
                if _overlap(row, other):
                    raise ContractError(
                        f"{row.scenario}: the rows for {row.kernels} and {other.kernels} overlap"
                    )
            others.append(row)

    def rows_for(self, scenario: str, release: str) -> list[Row]:
        """Return the rows of `scenario` that a kernel `release` such as ``6.18.44-x`` may keep.

        One, as a rule. A kernel newer than every row is held to the newest. One between two rows,
        where nobody has looked at what changed when, may keep either. ContractError without a row.
        """
        series = parse_series(release)
        rows = sorted(self.rows.get(scenario, []), key=lambda row: row.first or (0, 0))
        holding = [row for row in rows if row.holds_for(series)]
        if holding or not rows:
            if holding:
                return holding
            raise ContractError(f"{scenario} has no contract row")
        before = [row for row in rows if row.last is not None and row.last < series]
        after = [row for row in rows if row.first is not None and series < row.first]
        return before[-1:] + after[:1]

    def mismatch(self, outcome: Outcome, release: str) -> str:
        """Say how `outcome` breaks the contract for `release`; empty if it keeps it."""
        rows = self.rows_for(outcome.scenario, release)
        if any(row.keeps(outcome) for row in rows):
            return ""
        lines = [f"{outcome.scenario} on {release} breaks its contract."]
        for row in rows:
            lines += [
                f"  promised ({row.kernels}): {_join(row.outcome)}{_log(row.log)}",
                f"  because: {row.why or 'no reason noted'} [{row.origin}]",
            ]
        lines.append(f"  happened: {_join(outcome.signature)}{_log(tuple(outcome.log))}")
        alike = [other for other in self.rows[outcome.scenario] if other.keeps(outcome)]
        if alike:
            lines.append(f"  that is what the contract says of {alike[0].kernels}")
        lines += [f"  {number}. {step}" for number, step in enumerate(outcome.steps, 1)]
        return "\n".join(lines)


@cache
def load(folder: Path = _FOLDER) -> Contract:
    """Load every contract*.toml of `folder`. Raises ContractError naming the row that is wrong."""
    rows = []
    for path in sorted(folder.glob("contract*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
        except tomllib.TOMLDecodeError as error:
            raise ContractError(f"{path.name}: {error}") from None
        rows += [_parse(table, path.name) for table in tables]
    return Contract(rows)


def parse_series(release: str) -> Series:
    """Return (7, 3) for ``7.3``, ``7.3.4-1-amd64`` or ``7.3-rc2``; ContractError for no version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if not match:
        raise ContractError(f"{release!r} is not a kernel version such as 7.3 or 6.18.44-1-amd64")
    return int(match[1]), int(match[2])


def _parse(table: dict[str, Any], file: str) -> Row:
    where = f"{file}: row of {table.get('scenario', '(no scenario)')}"
    if unknown := set(table) - _KEYS:
        raise ContractError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    if not table.get("scenario") or not table.get("outcome"):
        raise ContractError(f"{where}: scenario and outcome are required")
    if not table.get("seen") and not table.get("read"):
        raise ContractError(f"{where}: say where it comes from, with `seen` or `read`")
    return Row(
        scenario=table["scenario"],
        first=parse_series(table["from"]) if "from" in table else None,
        last=parse_series(table["to"]) if "to" in table else None,
        outcome=tuple(table["outcome"]),
        log=tuple(table.get("log", ())),
        seen=tuple(table.get("seen", ())),
        read=table.get("read", ""),
        commit=table.get("commit", ""),
        why=table.get("why", ""),
        alternatives=tuple(tuple(texts) for texts in table.get("or", ())),
    )


def _overlap(one: Row, other: Row) -> bool:
    lowest, highest = (0, 0), (1 << 16, 0)
    return (one.first or lowest) <= (other.last or highest) and (other.first or lowest) <= (
        one.last or highest
    )


def _text(series: Series | None) -> str:
    return f"{series[0]}.{series[1]}" if series else ""


def _join(texts: Iterable[str]) -> str:
    return "; ".join(texts)


def _log(log: tuple[str, ...]) -> str:
    return f" (kernel log: {', '.join(log)})" if log else ""
