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

#: How often the slot is populated while something else goes on, at least, and for how long at most
#: (in seconds) until one of the calls succeeds.
_ROUNDS = 20
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


def populate_while(bench: PopulateBench, action: Callable[[], object], source: Any) -> None:
    """Populate the whole slot some times over while `action` is repeated on another thread.

    What may make a call fail could outlast a few of them: it goes on until one has succeeded.
    """
    bench.forget_digest()
    calls: list[Call] = []
    end = time.monotonic() + _PATIENCE
    with meanwhile(action):
        while len(calls) < _ROUNDS or (
            not any(call.ok for call in calls) and time.monotonic() < end
        ):
            calls.append(bench.populate(0, SLOT_PAGES, source, record=False))
    bench.tally("calls", calls)


def flip_while_populated(bench: PopulateBench, source: Any) -> None:
    """Populate the whole slot some times over while its attributes are flipped."""
    change = bench.machine.try_.set_memory_attributes
    attributes = itertools.cycle((0, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE))
    flips: list[Result[int]] = []
    populate_while(
        bench, lambda: flips.append(change(0, SLOT_PAGES * PAGE_SIZE, next(attributes))), source
    )
    bench.tally("flips", flips)


@populate_scenario(
    "race.punch", "one thread populates, another punches holes in the same range", "two_cpus"
)
def _punch(bench: PopulateBench) -> None:
    source = bench.source("aligned", SLOT_PAGES)
    punch = bench.guest_memfd.try_.punch_hole
    punches: list[Result[int]] = []
    populate_while(bench, lambda: punches.append(punch(0, SLOT_PAGES * PAGE_SIZE)), source)
    bench.tally("punches", punches)
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
    gfn = 0
    try:
        with meanwhile(rain):
            while gfn < SLOT_PAGES and len(calls) < 10_000:
                address = source.address + gfn * PAGE_SIZE
                call = bench.populate(gfn, SLOT_PAGES - gfn, address, record=False)
                gfn += call.done or 0
                calls.append(call)
    finally:
        signal.signal(signal.SIGURG, before)
    bench.fact("populated", f"{gfn} of {SLOT_PAGES}")
    bench.tally("calls while signals rain", calls)
