# SPDX-License-Identifier: MIT
"""Races say what they are about only if it came up: verdicts that a lazy race would not pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.result import Result
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.machine import Machine
from kvmharness.scenarios import populate_races, soft_dirty
from kvmharness.scenarios.populate_bench import SLOT_PAGES
from kvmharness.scenarios.populate_races import populate_while

from .test_populate import Simulated


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populate_races, "_PATIENCE", 0.2)


def raced(bench: Simulated, action: Callable[[], object]) -> list[str]:
    with SourceBuffer.anonymous(SLOT_PAGES) as source:
        populate_while(bench, action, source)
    return bench.words


def test_a_race_goes_on_until_a_call_succeeds_and_its_digest_is_followed() -> None:
    bench = Simulated(set(range(SLOT_PAGES)))
    assert raced(bench, bench.taken.clear)[0] != "all EIO"
    assert bench.digest  # one thread alone populated


def test_a_race_that_never_came_up_does_not_keep_the_promise() -> None:
    full = Simulated(set(range(SLOT_PAGES)))
    assert raced(full, lambda: None) == ["all EIO", "= all or none"]


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 20), (0.05, 6)])
def test_a_race_in_which_calls_take_long_has_fewer_of_them(
    monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int
) -> None:
    monkeypatch.setattr(populate_races, "_ENOUGH", 0.3)
    bench = Simulated()
    made: list[float] = []
    populate = bench.populate

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        made.append(seconds)
        return populate(*arguments, **options)

    monkeypatch.setattr(bench, "populate", slow)
    raced(bench, bench.taken.clear)
    assert 2 <= len(made) <= calls
    assert seconds or len(made) == calls


@pytest.mark.parametrize("punched", [True, False])
def test_a_punch_shows_by_what_is_populated_again(punched: bool) -> None:
    bench = Simulated()

    class GuestMemfd:
        def __init__(self) -> None:
            self.try_ = self

        def punch_hole(self, offset: int, size: int) -> Result[int]:
            if punched:
                bench.taken.clear()
            return Result("fallocate", 0)

    slot = type("Slot", (), {"guest_memfd": GuestMemfd()})()
    bench._machine = cast(Machine, type("Machine", (), {"slots": [slot]})())
    populate_races._punch(bench)
    bench.stack.close()
    met = "= met" if punched else "= not met"
    assert bench.words[1:4] == ["= all or none", "all ok", met]


def test_a_call_that_populated_a_part_is_told() -> None:
    bench = Simulated({5}, tells=False)
    assert raced(bench, lambda: None)[1] == "= some"


@pytest.mark.skipif(not soft_dirty.works(), reason="this kernel keeps no soft-dirty bits")
def test_a_page_is_dirty_when_it_was_written_and_not_when_it_was_read() -> None:
    with SourceBuffer.anonymous(1) as source:
        soft_dirty.clear()
        source.page(0)
        assert not soft_dirty.is_set(source.address)
        source.mapping.write(0, b"x")
        assert soft_dirty.is_set(source.address)


def test_private_is_what_flips_begin_with() -> None:
    changes: list[int] = []

    class Flipping:
        def __init__(self) -> None:
            self.try_ = self

        def set_shared(self, gpa: int, size: int) -> None:
            changes.append(0)

        def set_memory_attributes(self, gpa: int, size: int, attributes: int) -> object:
            changes.append(attributes)
            return type("Flip", (), {"name": "KVM_SET_MEMORY_ATTRIBUTES", "errno": 0})()

    bench = Simulated()
    bench._machine = cast(Machine, Flipping())
    with SourceBuffer.anonymous(SLOT_PAGES) as source:
        populate_races.flip_while_populated(bench, source)
    assert changes[:3] == [0, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE, 0][: len(changes)]
