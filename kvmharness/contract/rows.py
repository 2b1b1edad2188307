# SPDX-License-Identifier: MIT
"""What each kernel generation promises for each scenario, and whether an outcome keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest
from typing import TYPE_CHECKING

from kvmharness.contract.generation import Generation, meant
from kvmharness.contract.patterns import Patterns
from kvmharness.errors import HarnessError
from kvmharness.scenarios.grammar import Promise, words
from kvmharness.scenarios.step import Fact

if TYPE_CHECKING:
    from kvmharness.scenarios.outcome import Outcome

#: What stands for the kernel's log among the numbers of steps, which begin at 1.
LOG = 0


class ContractError(HarnessError):
    """The contract is malformed, or has no row where one is needed."""


@dataclass(frozen=True)
class Alternative:
    """An outcome that is as good as a row's own, with what the kernel's log then shows."""

    outcome: tuple[Promise, ...]
    log: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    why: str = ""

    def differences(self, outcome: Outcome) -> frozenset[int]:
        """Return the numbers of the steps in which `outcome` is another; LOG for the log."""
        pairs = zip_longest(self.outcome, outcome.steps)
        different = {
            number
            for number, (promise, step) in enumerate(pairs, 1)
            if promise is None or step is None or not promise.admits(step)
        }
        if not _logged(self.log, outcome.log):
            different.add(LOG)
        return frozenset(different)

    def is_shown_by(self, outcome: Outcome) -> bool:
        """Whether `outcome` is this one."""
        return not self.differences(outcome)


@dataclass(frozen=True)
class Calls:
    """What the steps of some scenarios call: an ioctl, a sub-command, a system call.

    ``= the source page`` asks for a fact. `alike`: each step is that one.
    """

    scenarios: Patterns
    steps: tuple[str, ...]
    alike: bool = False


@dataclass(frozen=True)
class Row:
    """One promise: `outcome` has a part for each step, `log` what the kernel's log shows.

    `scenarios` are patterns of ids. `alternatives` are outcomes that are as good: a configuration
    that not every kernel of the generation has. `seen` lists releases it was observed on, `read`
    the functions it was read in, `commit` what made it so; one of them is there.
    `queued`: read in what is queued for a series that is not released, and not seen on one; the
    other row of that series holds as well, since the change may come late or be switched off.
    `advice` is for who meets the errno in earnest.
    `stand_in` are the steps that rest on what an emulated host's firmware or module does, LOG the
    kernel's log: hardware may differ there, and it would be no fault of the kernel's.
    """

    scenarios: Patterns
    generation: Generation
    outcome: tuple[Promise, ...]
    log: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    commit: tuple[str, ...] = ()
    why: str = ""
    advice: str = ""
    alternatives: tuple[Alternative, ...] = ()
    queued: bool = False
    stand_in: frozenset[int] = frozenset()

    @property
    def kernels(self) -> str:
        """The generation in words: ``before 6.19``, ``from 7.0, before 7.3``, ``from 7.3``."""
        return str(self.generation)

    @property
    def origin(self) -> str:
        """Where the row comes from, in words."""
        parts = []
        if self.seen:
            parts.append("seen on " + ", ".join(self.seen))
        if self.read:
            parts.append("read in " + "; ".join(self.read))
        if self.commit:
            parts.append("commit " + ", ".join(self.commit))
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

    def beyond_stand_in(self, outcome: Outcome) -> frozenset[int]:
        """Return where `outcome` differs, if it does so in steps of the stand-in's alone."""
        for each in self.promised:
            different = each.differences(outcome)
            if different and different <= self.stand_in:
                return different
        return frozenset()


class Contract:
    """All rows. Each pair of a scenario and a release has one, as a rule (`rows_for`)."""

    def __init__(self, rows: Iterable[Row], calls: Iterable[Calls] = ()) -> None:
        self.rows = tuple(rows)
        self._calls = tuple(calls)
        self._of: dict[str, list[Row]] = {}

    def of(self, scenario: str) -> list[Row]:
        """Return the rows of a scenario, the oldest generation first; none if it has none.

        ContractError where two of them speak of the same kernel.
        """
        if scenario not in self._of:
            rows = [row for row in self.rows if row.scenarios.mean(scenario)]
            for one, other in combinations(rows, 2):
                if one.queued == other.queued and one.generation.overlaps(other.generation):
                    raise ContractError(
                        f"{scenario}: the rows for {one.kernels} and for {other.kernels} overlap"
                    )
            self._of[scenario] = sorted(rows, key=lambda row: row.generation.order)
        return self._of[scenario]

    def calls(self, scenario: str) -> tuple[str, ...]:
        """Return what each step of a scenario calls; with a leading ``=`` what it asks.

        ContractError where that is not said once, or of another number of steps than is promised.
        """
        calls = [each for each in self._calls if each.scenarios.mean(scenario)]
        if len(calls) != 1:
            said = "twice" if calls else "nowhere"
            raise ContractError(f"{scenario}: what its steps call is said {said}")
        promised = {len(one.outcome) for row in self.of(scenario) for one in row.promised}
        steps = calls[0].steps * max(promised, default=0) if calls[0].alike else calls[0].steps
        if promised != {len(steps)}:
            raise ContractError(
                f"{scenario} calls {len(steps)} times, but outcomes have {sorted(promised)} steps"
            )
        return steps

    def misnamed(self, outcome: Outcome) -> str:
        """Say how the calls that `outcome` holds are not those of calls(); empty if they are."""
        for number, (call, step) in enumerate(
            zip(self.calls(outcome.scenario), outcome.steps, strict=False), 1
        ):
            made = f"= {step.label}" if isinstance(step, Fact) else step.ioctl
            # Of many calls of which none was made there is no name.
            if made and made != call:
                return f"{outcome.scenario}: step {number} is {made}, the contract has {call}"
        return ""

    def check(self, scenarios: Sequence[str]) -> list[str]:
        """Return what is wrong with the contract of these ids, which are all there are."""
        wrong = [
            f"{pattern!r} matches no scenario"
            for patterns in (
                *(row.scenarios for row in self.rows),
                *(calls.scenarios for calls in self._calls),
            )
            for pattern in patterns.meaning_nothing(scenarios)
        ]
        for scenario in scenarios:
            try:
                if not self.of(scenario):
                    wrong.append(f"{scenario} has no contract row")
                self.calls(scenario)
            except ContractError as error:
                wrong.append(str(error))
        return wrong

    def rows_for(self, scenario: str, release: str) -> list[Row]:
        """Return the rows of `scenario` that a kernel `release` such as ``6.18.44-x`` may keep.

        One, as a rule. A kernel newer than every row is held to the newest. One between two rows,
        where nobody has looked at what changed when, may keep either; so may one of a series for
        which a change is queued. For a series (``7.1``) it is what any of its releases may keep.
        ContractError without a row.
        """
        rows = self.of(scenario)
        if not rows:
            raise ContractError(f"{scenario} has no contract row")
        found: list[Row] = []
        for each in meant((row.generation for row in rows), release):
            holding = [row for row in rows if row.generation.holds(each)]
            if all(row.queued for row in holding):
                released = [row.generation for row in rows if not row.queued]
                before = [row for row in released if row.precedes(each)]
                after = [row for row in released if row.follows(each)]
                near = before[-1:] + after[:1]
                holding = [row for row in rows if row.generation in near or row in holding]
            found += [row for row in holding if row not in found]
        return found

    def mismatch(self, outcome: Outcome, release: str) -> str:
        """Say how `outcome` breaks the contract for `release`; empty if it keeps it."""
        rows = self.rows_for(outcome.scenario, release)
        if any(row.keeps(outcome) for row in rows):
            return ""
        lines = [f"{outcome.scenario} on {release} breaks its contract.", *_promised(rows)]
        lines.append(f"  happened: {_join(map(words, outcome.steps))}{_log(outcome.log)}")
        alike = [other for other in self.of(outcome.scenario) if other.keeps(outcome)]
        if alike:
            lines.append(f"  that is what the contract says of {alike[0].kernels}")
        lines += _steps(outcome, frozenset())
        return "\n".join(lines)

    def beyond_emulation(self, outcome: Outcome, release: str) -> str:
        """Say how `outcome`, seen on hardware, differs from what an emulated host's firmware did.

        Empty where it keeps the contract, and where it differs in what the kernel itself promises.
        """
        rows = self.rows_for(outcome.scenario, release)
        if any(row.keeps(outcome) for row in rows):
            return ""
        for row in rows:
            if different := row.beyond_stand_in(outcome):
                break
        else:
            return ""
        return "\n".join(
            (
                f"{outcome.scenario} on {release} differs from emulation.",
                "  Marked with * is what no kernel promises: so far it was seen on an emulated "
                "host alone, whose firmware is a stand-in.",
                *_promised([row]),
                f"  happened: {_join(map(words, outcome.steps))}{_log(outcome.log)}",
                *_steps(outcome, different),
                "  Please report it with this text, the processor's name, and the version of its "
                "firmware or TDX module, so that the stand-in and the contract can be mended.",
            )
        )


def _logged(promised: Sequence[str], lines: Sequence[str] | None) -> bool:
    """Whether each entry that is promised is there, and none that is not; a log unread may be any.

    The compiler may have put a WARNING into a function that calls the one of the source: those that
    can carry it stand as ``WARNING tdx_td_finalize|tdx_vm_ioctl``.
    """
    if lines is None:
        return True
    wanted = [_carriers(entry) for entry in promised]
    shown = set(lines)
    return all(each & shown for each in wanted) and shown <= {
        one for each in wanted for one in each
    }


def _carriers(entry: str) -> set[str]:
    kind, _, functions = entry.partition(" ")
    if kind != "WARNING":
        return {entry}
    return {f"{kind} {function}" for function in functions.split("|")}


def _promised(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        texts = ", or ".join(f"{_join(each.outcome)}{_log(each.log)}" for each in row.promised)
        lines.append(f"  promised ({row.kernels}): {texts}")
        lines.append(f"  because: {row.why or 'no reason noted'} [{row.origin}]")
    return lines


def _steps(outcome: Outcome, marked: frozenset[int]) -> list[str]:
    return [
        f"{'*' if number in marked else ' '} {number}. {step.label}: {words(step)}"
        for number, step in enumerate(outcome.steps, 1)
    ]


def _join(parts: Iterable[Promise | str]) -> str:
    return "; ".join(map(str, parts))


def _log(log: Sequence[str] | None) -> str:
    if log is None:
        return " (kernel log: can't be read)"
    return f" (kernel log: {', '.join(log)})" if log else ""
