# SPDX-License-Identifier: MIT
"""What SNP and TDX populate alike while something else goes on: other threads, signals.

What has to come of each on which kernel, and what may, is in contract/*.toml.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result
from kvmharness.scenarios.populate import populate_scenario
from kvmharness.scenarios.populate_bench import SLOT_PAGES, PopulateBench
from kvmharness.scenarios.races import meanwhile
from kvmharness.scenarios.step import Call

#: How often the slot is populated while something else goes on; in how many seconds that has to
#: be often enough, since a call may wait long for the other thread; and for how many at most until
#: what has to come of a race has come.
_ROUNDS = 20
_ENOUGH = 2.0
_PATIENCE = 5.0

#: Populates (gfn, pages, source address) in one call that is no step.
Verb = Callable[[int, int, int], Call]


def populate_at_once(bench: PopulateBench, verbs: Sequence[Verb]) -> None:
    """Populate the whole slot with each verb on its thread, going on past what another has done."""
    address = bench.source("aligned", SLOT_PAGES).address
    bench.forget_digest()
    barrier = threading.Barrier(len(verbs))
    populated: list[int] = []
    calls: list[Call] = []

    def body(populate: Verb) -> None:
        barrier.wait(10)
        gfn = 0
        while gfn < SLOT_PAGES:
            call = populate(gfn, SLOT_PAGES - gfn, address + gfn * PAGE_SIZE)
            calls.append(call)
            reached = gfn + (call.done or 0)
            populated.extend(range(gfn, reached))
            gfn = reached if call.ok else reached + 1

    workers = [threading.Thread(target=body, args=(verb,)) for verb in verbs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    bench.populated_once(populated)
    bench.tally("calls", calls)


def populate_while(
    bench: PopulateBench, action: Callable[[], object], source: Any, *, successes: int = 1
) -> list[Call]:
    """Populate the whole slot some times over while `action` is repeated on another thread.

    It goes on until so many calls have succeeded: only then has the race shown what it is to show.
    One thread alone populates, so that the digest is followed through all of it.
    """
    calls: list[Call] = []
    began = time.monotonic()

    def enough() -> bool:
        took = time.monotonic() - began
        often = len(calls) >= _ROUNDS or took > _ENOUGH
        return often and (sum(call.ok for call in calls) >= successes or took > _PATIENCE)

    with meanwhile(action):
        while not enough():
            calls.append(bench.populate(0, SLOT_PAGES, source, record=False))
    bench.tally("calls", calls)
    whole = all(call.whole for call in calls)
    bench.fact("the pages of a call", "all or none" if whole else "some")
    return calls


def flip_while_populated(bench: PopulateBench, source: Any) -> list[Call]:
    """Populate the whole slot some times over while its attributes are flipped. They begin shared.

    The first calls are refused for that, until the other thread gets a word in.
    """
    size = SLOT_PAGES * PAGE_SIZE
    bench.machine.set_shared(0, size)
    change = bench.machine.try_.set_memory_attributes
    attributes = itertools.cycle((lib.KVM_MEMORY_ATTRIBUTE_PRIVATE, 0))
    flips: list[Result[int]] = []
    calls = populate_while(bench, lambda: flips.append(change(0, size, next(attributes))), source)
    bench.tally("flips", flips)
    return calls


@populate_scenario(
    "race.punch", "one thread populates, another punches holes in the same range", "two_cpus"
)
def _punch(bench: PopulateBench) -> None:
    source = bench.source("aligned", SLOT_PAGES)
    punch = bench.guest_memfd.try_.punch_hole
    punches: list[Result[int]] = []
    # The first may succeed before any punch: another shows that there was one. Refused are calls
    # that no punch preceded, and there may be none.
    calls = populate_while(
        bench, lambda: punches.append(punch(0, SLOT_PAGES * PAGE_SIZE)), source, successes=2
    )
    bench.tally("punches", punches)
    bench.fact("populated again", "met" if sum(call.ok for call in calls) > 1 else "not met")
    bench.step("a last punch", punch(0, SLOT_PAGES * PAGE_SIZE))
    bench.populate(0, SLOT_PAGES, source)


@populate_scenario("race.signal", "signals rain on the thread that populates a range")
def _signal(bench: PopulateBench) -> None:
    """Progress is kept, and the loop that goes on from it populates each page once."""
    source = bench.source("aligned", SLOT_PAGES)
    main = threading.get_ident()

    def rain() -> None:
        signal.pthread_kill(main, signal.SIGURG)
        time.sleep(0.0005)

    # SIGURG is ignored by default, and an ignored signal is never pending: it needs a handler.
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    calls: list[Call] = []
    end = time.monotonic() + _PATIENCE
    try:
        with meanwhile(rain):
            gfn = _populate_to_the_end(bench, source.address, calls)
            # A range that no signal met says nothing of signals: once more, from the beginning.
            while not _met(calls) and time.monotonic() < end:
                bench.guest_memfd.punch_hole(0, SLOT_PAGES * PAGE_SIZE)
                gfn = _populate_to_the_end(bench, source.address, calls)
    finally:
        signal.signal(signal.SIGURG, before)
    bench.fact("populated", f"{gfn} of {SLOT_PAGES}")
    bench.tally("calls while signals rain", calls)
    bench.fact("calls that said ok too soon", sum(_too_soon(bench, call) for call in calls))
    bench.fact("a call that a signal ended", "met" if _met(calls) else "not met")


def _populate_to_the_end(bench: PopulateBench, address: int, calls: list[Call]) -> int:
    """Populate the slot, going on from where each call ended; return the gfn that was reached."""
    gfn = 0
    for _ in range(10_000):
        calls.append(bench.populate(gfn, SLOT_PAGES - gfn, address + gfn * PAGE_SIZE, record=False))
        gfn += calls[-1].done or 0
        if gfn == SLOT_PAGES:
            break
    return gfn


def _too_soon(bench: PopulateBench, call: Call) -> bool:
    """Whether a call said ok with more left than its ok may leave."""
    return call.ok and bool(call.left) and not (bench.ok_may_leave_pages and call.done)


def _met(calls: Sequence[Call]) -> bool:
    return any(not call.ok or call.left for call in calls)
