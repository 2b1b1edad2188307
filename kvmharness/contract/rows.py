# SPDX-License-Identifier: MIT
"""What each kernel generation promises for each scenario, and whether an outcome keeps it.

The promises are rows of the *.toml files beside this one. A row holds from a kernel series
to another, and says where it comes from: releases it was seen on, or source it was read in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmharness.errors import HarnessError
from kvmharness.release import NotARelease, Series, parse_series

if TYPE_CHECKING:
    from kvmharness.scenarios.outcome import Outcome

_FOLDER = Path(__file__).parent
_KEYS = {
    *("scenario", "from", "to", "outcome", "or", "log"),
    *("seen", "read", "queued", "commit", "why"),
}
_ALTERNATIVE_KEYS = {"outcome", "log", "seen", "why"}


class ContractError(HarnessError):
    """The contract is malformed, or has no row where one is needed."""


@dataclass(frozen=True)
class Alternative:
    """An outcome that is as good as a row's own, with what the kernel's log then shows."""

    outcome: tuple[str, ...]
    log: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    why: str = ""

    def is_shown_by(self, outcome: Outcome) -> bool:
        """Whether `outcome` is this one."""
        return tuple(outcome.signature) == self.outcome and set(outcome.log) == set(self.log)


@dataclass(frozen=True)
class Row:
    """One promise: `outcome` is a text for each step, `log` what the kernel's log shows.

    `alternatives` are outcomes that are as good: a fix that some point releases of a series have,
    a configuration that not every kernel of it has.
    `first` and `last` are kernel series, None where open. `seen` lists releases it was observed
    on, `read` names the source it was read in; one of them is there. `commit` made it so.
    `queued`: read in what is queued for a series that is not released, and not seen on one; the
    other row of that series holds as well, since the change may come late or be switched off.
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
    alternatives: tuple[Alternative, ...] = ()
    queued: bool = False

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
        if self.queued:
            parts.append("queued, not yet seen on a released kernel")
        return "; ".join(parts)

    @property
    def promised(self) -> tuple[Alternative, ...]:
        """All outcomes that keep the promise, the row's own first."""
        return (Alternative(self.outcome, self.log, self.seen, self.why), *self.alternatives)

    def keeps(self, outcome: Outcome) -> bool:
        """Whether `outcome` is what this row promises."""
        return any(each.is_shown_by(outcome) for each in self.promised)


class Contract:
    """All rows, by scenario."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            others = self.rows.setdefault(row.scenario, [])
            for other in others:
                if row.queued == other.queued and _overlap(row, other):
                    raise ContractError(
                        f"{row.scenario}: the rows for {row.kernels} and {other.kernels} overlap"
                    )
            others.append(row)

    def rows_for(self, scenario: str, release: str) -> list[Row]:
        """Return the rows of `scenario` that a kernel `release` such as ``6.18.44-x`` may keep.

        One, as a rule. A kernel newer than every row is held to the newest. One between two rows,
        where nobody has looked at what changed when, may keep either; so may one of a series for
        which a change is queued. ContractError without a row.
        """
        series = parse_series(release)
        rows = sorted(self.rows.get(scenario, []), key=lambda row: row.first or (0, 0))
        holding = [row for row in rows if row.holds_for(series)]
        if any(not row.queued for row in holding):
            return holding
        if not rows:
            raise ContractError(f"{scenario} has no contract row")
        released = [row for row in rows if not row.queued]
        before = [row for row in released if row.last is not None and row.last < series]
        after = [row for row in released if row.first is not None and series < row.first]
        return before[-1:] + after[:1] + holding

    def mismatch(self, outcome: Outcome, release: str) -> str:
        """Say how `outcome` breaks the contract for `release`; empty if it keeps it."""
        rows = self.rows_for(outcome.scenario, release)
        if any(row.keeps(outcome) for row in rows):
            return ""
        lines = [f"{outcome.scenario} on {release} breaks its contract."]
        for row in rows:
            lines += [
                f"  promised ({row.kernels}): "
                + ", or ".join(f"{_join(each.outcome)}{_log(each.log)}" for each in row.promised),
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
    """Load every *.toml of `folder`. Raises ContractError naming the row that is wrong."""
    rows = []
    for path in sorted(folder.glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
        except tomllib.TOMLDecodeError as error:
            raise ContractError(f"{path.name}: {error}") from None
        rows += [_parse(table, path.name) for table in tables]
    return Contract(rows)


def _parse(table: dict[str, Any], file: str) -> Row:
    where = f"{file}: row of {table.get('scenario', '(no scenario)')}"
    _check(table, _KEYS, where)
    if not table.get("scenario") or not table.get("outcome"):
        raise ContractError(f"{where}: scenario and outcome are required")
    if not table.get("seen") and not table.get("read"):
        raise ContractError(f"{where}: say where it comes from, with `seen` or `read`")
    if table.get("queued") and table.get("seen"):
        raise ContractError(f"{where}: what was seen on a released kernel is not queued")
    return Row(
        scenario=table["scenario"],
        first=_series(table, "from", where),
        last=_series(table, "to", where),
        outcome=tuple(table["outcome"]),
        log=tuple(table.get("log", ())),
        seen=tuple(table.get("seen", ())),
        read=table.get("read", ""),
        commit=table.get("commit", ""),
        why=table.get("why", ""),
        alternatives=tuple(_alternative(each, where) for each in table.get("or", ())),
        queued=bool(table.get("queued")),
    )


def _series(table: dict[str, Any], key: str, where: str) -> Series | None:
    if key not in table:
        return None
    try:
        return parse_series(table[key])
    except NotARelease as error:
        raise ContractError(f"{where}: {error}") from None


def _alternative(entry: Any, where: str) -> Alternative:
    """Return an entry of `or`: a list of texts, or a table where there is more to say."""
    if isinstance(entry, list):
        return Alternative(tuple(entry))
    if not isinstance(entry, dict) or not entry.get("outcome"):
        raise ContractError(f"{where}: an entry of `or` is a list of texts or has an `outcome`")
    _check(entry, _ALTERNATIVE_KEYS, where)
    return Alternative(
        tuple(entry["outcome"]),
        tuple(entry.get("log", ())),
        tuple(entry.get("seen", ())),
        entry.get("why", ""),
    )


def _check(table: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := set(table) - known:
        raise ContractError(f"{where}: unknown key {sorted(unknown)[0]!r}")


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
