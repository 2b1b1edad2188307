# SPDX-License-Identifier: MIT
"""Reads the contract: the rows of the *.toml files beside this one. snp.toml explains the keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from kvmharness.contract.citation import BadCitation, citation
from kvmharness.contract.generation import BadGeneration, Change, Generation
from kvmharness.contract.patterns import BadPattern, Patterns
from kvmharness.contract.rows import LOG, Alternative, Calls, Contract, ContractError, Row
from kvmharness.release import NotARelease, parse_release
from kvmharness.scenarios.grammar import GrammarError, Promise, parse

T = TypeVar("T")

DIRECTORY = Path(__file__).parent

_PROMISE, _CALLS = "promise", "calls"
_ALTERNATIVE_KEYS = {"outcome", "log", "seen", "why"}
_KEYS = {
    *_ALTERNATIVE_KEYS,
    *("scenario", "from", "before", "or", "read", "commit", "do", "queued", "stand_in"),
}
_COMMIT = re.compile(r"[0-9a-f]{12}")


@cache
def load(directory: Path = DIRECTORY) -> Contract:
    """Load every *.toml of `directory`. Raises ContractError naming the row that is wrong."""
    rows, calls = [], []
    for path in sorted(directory.glob("*.toml")):
        try:
            file = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ContractError(f"{path.name}: {error}") from None
        _check(file, {_PROMISE, _CALLS}, path.name)
        rows += [_row(table, path.name) for table in file.get(_PROMISE, [])]
        calls += [_calls(table, path.name) for table in file.get(_CALLS, [])]
    return Contract(rows, calls)


def _row(table: dict[str, Any], file: str) -> Row:
    named = _texts(table, "scenario", f"{file}: scenario")
    where = f"{file}: promise of {', '.join(named) or '(no scenario)'}"
    _check(table, _KEYS, where)
    outcome = _promises(table, where)
    if not named or not outcome:
        raise ContractError(f"{where}: scenario and outcome are required")
    row = Row(
        scenarios=_made(lambda: Patterns(named), where),
        generation=_made(lambda: _generation(table), where),
        outcome=outcome,
        log=_texts(table, "log", where),
        seen=_texts(table, "seen", where),
        read=_texts(table, "read", where),
        commit=_texts(table, "commit", where),
        why=table.get("why", ""),
        advice=table.get("do", ""),
        alternatives=tuple(_alternative(each, where) for each in table.get("or", ())),
        queued=table.get("queued", False),
        stand_in=_stand_in(table.get("stand_in", []), len(outcome), where),
    )
    _check_origin(row, where)
    return row


def _calls(table: dict[str, Any], file: str) -> Calls:
    named = _texts(table, "scenario", f"{file}: scenario")
    where = f"{file}: calls of {', '.join(named) or '(no scenario)'}"
    _check(table, {"scenario", "steps"}, where)
    steps = _texts(table, "steps", where)
    if not named or not steps:
        raise ContractError(f"{where}: scenario and steps are required")
    alike = isinstance(table["steps"], str)
    return Calls(_made(lambda: Patterns(named), where), steps, alike=alike)


def _generation(table: dict[str, Any]) -> Generation:
    first, end = (Change.parse(table[key]) if key in table else None for key in ("from", "before"))
    return Generation(first, end)


def _check_origin(row: Row, where: str) -> None:
    """Hold a row to what it says of where it comes from: of its own generation, not another's."""
    if not (row.seen or row.read or row.commit):
        raise ContractError(f"{where}: say where it comes from, with `seen`, `read` or `commit`")
    if row.queued and row.seen:
        raise ContractError(f"{where}: what was seen on a released kernel is not queued")
    for commit in row.commit:
        if not _COMMIT.fullmatch(commit):
            raise ContractError(f"{where}: {commit!r} is not 12 digits of a commit")
    for each in row.promised:
        for release in each.seen:
            if not _made(partial(_holds, row.generation, release), where):
                raise ContractError(f"{where}: seen on {release}, which is not {row.kernels}")
    cited = [_made(partial(citation, text), where) for text in row.read]
    versions = {version for each in cited if each for version in each.versions}
    if versions and not any(row.generation.holds_some_of(version) for version in versions):
        read = ", ".join(sorted(versions))
        raise ContractError(f"{where}: read in {read}, none of which is {row.kernels}")


def _holds(generation: Generation, release: str) -> bool:
    return generation.holds(parse_release(release))


def _alternative(entry: Any, where: str) -> Alternative:
    """Return an entry of `or`: a list of texts, or a table where there is more to say."""
    if isinstance(entry, list):
        return Alternative(_promises({"outcome": entry}, where))
    if not isinstance(entry, dict) or not entry.get("outcome"):
        raise ContractError(f"{where}: an entry of `or` is a list of texts or has an `outcome`")
    _check(entry, _ALTERNATIVE_KEYS, where)
    return Alternative(
        _promises(entry, where),
        _texts(entry, "log", where),
        _texts(entry, "seen", where),
        entry.get("why", ""),
    )


def _stand_in(marks: Any, steps: int, where: str) -> frozenset[int]:
    """Return the steps that `stand_in` marks: true is each and the log, "log" the log alone."""
    everything = range(LOG, steps + 1)
    if marks is True:
        return frozenset(everything)
    numbers = [LOG if mark == "log" else mark for mark in marks or ()]
    for number in numbers:
        if not isinstance(number, int) or number not in everything:
            raise ContractError(f"{where}: stand_in marks {number!r}, of {steps} steps")
    return frozenset(numbers)


def _texts(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a key's texts: one may stand without a list around it."""
    value = table.get(key, ())
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise ContractError(f"{where}: `{key}` is a text or a list of texts")
    return texts


def _promises(table: dict[str, Any], where: str) -> tuple[Promise, ...]:
    """Return what `outcome` promises of each step."""
    texts = _texts(table, "outcome", where)
    return tuple(_made(partial(parse, text), where) for text in texts)


def _made(make: Callable[[], T], where: str) -> T:
    """Return what `make` gives; what is wrong with a row is said of that row."""
    try:
        return make()
    except (BadPattern, BadGeneration, BadCitation, GrammarError, NotARelease) as error:
        raise ContractError(f"{where}: {error}") from None


def _check(table: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := set(table) - known:
        raise ContractError(f"{where}: unknown key {sorted(unknown)[0]!r}")
