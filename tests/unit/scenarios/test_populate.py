# SPDX-License-Identifier: MIT
"""What SNP and TDX scenarios share: declared once, found by grep, the same whoever populates."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from kvmharness import scenarios
from kvmharness.closing import Closing
from kvmharness.kernel_log import taint
from kvmharness.kernel_log.log import KernelLine, KernelLog
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import VmType
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.machine import Machine
from kvmharness.scenarios import catalog, engine
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.guest_memfd_bench import DefaultBench
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench, Source, address_of
from kvmharness.scenarios.populate_races import populate_at_once
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.step import Call
from kvmharness.standins import proc

NOBODY = cast(Kvm, None)

#: Cases of both VM types that are two functions, since the two do different things.
APART = {
    "end.closed_populated",
    "flags.unknown",
    "race.attributes",
    "range.populated",
    "source.guest_memfd",
    "state.bad_pointers",
    "state.unknown_command",
}


class Simulated(PopulateBench):
    """A bench whose VM takes whatever is not in `refused`, and tells of a refusal as asked."""

    def __init__(self, refused: set[int] | None = None, *, tells: bool = True) -> None:
        super().__init__(NOBODY, Outcome("x"))
        self.taken: set[int] = set(refused or ())
        self.tells = tells
        self.sources: list[int] = []
        self.digest = True
        self.lock = threading.Lock()

    def make_ready(self) -> Machine:
        self._machine = cast(Machine, object())
        return self._machine

    make_without_attributes = make_ready

    def first_vcpu(self) -> Vcpu:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def forget_digest(self) -> None:
        self.digest = False

    def populate(self, gfn: int, pages: int, source: Source, *, record: bool = True) -> Call:
        with self.lock:
            done = 0
            while done < pages and gfn + done not in self.taken:
                self.taken.add(gfn + done)
                done += 1
            self.sources.append(address_of(source))
        failed = done < pages and (self.tells or not done)
        call = Call("x", errno.EIO if failed else 0, asked=pages, done=done, left=pages - done)
        if record:
            self.outcome.steps.append(call)
        return call

    @property
    def words(self) -> list[str]:
        return list(map(words, self.outcome.steps))


# ------------------------------------------------------------------ as they are declared


def function(scenario: Scenario) -> Callable[..., None]:
    action = scenario.action
    return action.func if isinstance(action, partial) else action


def test_what_both_vm_types_have_is_one_function() -> None:
    snp, tdx = (catalog.scenarios(vm_type) for vm_type in (VmType.SNP, VmType.TDX))
    both = {name[4:] for name in snp} & {name[4:] for name in tdx}
    assert len(both) >= 45
    twice = {case for case in both if function(snp[f"snp.{case}"]) != function(tdx[f"tdx.{case}"])}
    assert twice == APART


def test_every_id_is_found_by_its_last_part() -> None:
    """Or, where a table makes it, by the table's own words, joined by underscores."""
    (room,) = scenarios.__path__
    source = "".join(path.read_text(encoding="utf-8") for path in Path(room).glob("*.py"))
    literal = set(re.findall(r'"(?:[a-z_0-9]+\.)*([a-z_0-9]+)"', source))
    tables = re.compile(r"\w+\.(?:failure|pointer)\.")

    def found(name: str) -> bool:
        last = name.split(".")[-1]
        return last in literal or bool(tables.match(name) and _joined(last, literal))

    assert [name for name in catalog.all_scenarios() if not found(name)] == []


def _joined(text: str, words: set[str]) -> bool:
    """Whether `text` is two or more of `words` with underscores between them."""
    ends = [found.start() for found in re.finditer("_", text)]
    return any(
        text[:end] in words and (text[end + 1 :] in words or _joined(text[end + 1 :], words))
        for end in ends
    )


# ------------------------------------------------------------------ what is done


@pytest.mark.parametrize(
    ("tells", "shown"),
    [(True, ["EIO +2 left 2"]), (False, ["ok +2 left 2", "EIO"])],
)
def test_what_stopped_a_call_is_asked_for_where_it_was_not_told(
    tells: bool, shown: list[str]
) -> None:
    bench = Simulated({2}, tells=tells)
    with SourceBuffer.anonymous(4) as source:
        bench.populate_on(0, 4, source)
        assert bench.words == shown
        assert bench.sources == [source.address, source.address + 2 * PAGE_SIZE][: len(shown)]


def test_a_source_that_is_null_stays_null_and_a_whole_range_is_one_call() -> None:
    bench = Simulated({3}, tells=False)
    bench.populate_on(2, 2, None)
    assert bench.sources == [0, 0]
    bench.populate_on(4, 2, None)
    assert bench.words == ["ok +1 left 1", "EIO", "ok"]


@pytest.mark.parametrize("tells", [True, False])
def test_threads_that_populate_at_once_cover_the_slot_together(tells: bool) -> None:
    bench = Simulated(tells=tells)
    populate_at_once(bench, [partial(bench.populate, record=False)] * 3)
    assert bench.words == ["= 64 of 64", "some ok, some EIO"]
    assert not bench.digest


def test_a_page_that_two_threads_populated_is_not_counted() -> None:
    bench = Simulated()

    def careless(gfn: int, pages: int, address: int) -> Call:
        bench.taken.discard(5)
        return bench.populate(gfn, pages, address, record=False)

    populate_at_once(bench, [careless, careless])
    assert bench.words[0] == f"= {SLOT_PAGES - 1} of 64"


# ------------------------------------------------------------------ benches


def test_a_default_vm_asks_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = {"digest": "00", "rmp_assigned": "3"}
    monkeypatch.setattr(proc, "read_state", lambda path: stale)
    bench = DefaultBench(NOBODY, Outcome("x"))
    assert (bench.launch_digest(), bench.page_counts()) == (None, None)


class Closed(Closing):
    """Something that a call created."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_what_a_call_created_is_closed_at_the_end_and_what_it_did_not_is_not_missed() -> None:
    bench = Bench(NOBODY, Outcome("x"))
    made: Any = Closed()
    with bench.stack:
        bench.keep(Result("KVM_X", 0, value=made))
        bench.keep(Result("KVM_X", -1, errno.EINVAL))
        assert made.closed == 0
    assert made.closed == 1


class Log:
    """A kernel log that says what it is told to."""

    def __init__(self) -> None:
        self.lines: list[KernelLine] = []

    def new_lines(self) -> list[KernelLine]:
        lines, self.lines = self.lines, []
        return lines

    def close(self) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(KernelLog, "open", lambda: log)
    monkeypatch.setattr(taint, "read", lambda: 0)
    monkeypatch.setattr(engine, "rearm_warnings", lambda: None)
    return log


def test_what_the_kernel_says_while_all_is_closed_is_in_the_log(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Bench):
        def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
            super().__init__(kvm, outcome)
            self.stack.callback(lambda: log.lines.append(KernelLine(4, 1.0, "BUG: a fault")))

    class Host:
        def vm_types(self) -> list[VmType]:
            return [VmType.DEFAULT]

    scenario = Scenario("a.b", VmType.DEFAULT, "", lambda bench: bench.fact("x", 1), Faulty)
    outcome = engine.observe(scenario, cast(Kvm, Host()))
    assert (outcome.log, outcome.result) == (["BUG a fault"], "ok")
    assert list(map(words, outcome.steps)) == ["= 1"]

    monkeypatch.setattr(KernelLog, "open", lambda: None)
    assert engine.observe(scenario, cast(Kvm, Host())).log is None
