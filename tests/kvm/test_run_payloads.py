# SPDX-License-Identifier: MIT
"""Every payload in every mode it can be entered in, out of every kind of memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import get_args

import pytest

from kvmharness import Machine, RunTimeout, VmBuilder
from kvmharness.kvm.exits import InterruptedExit, IoExit
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.launch.source import numbered_pages
from kvmharness.machine import payload
from kvmharness.machine.payload import (
    STATUS_BAD_ARGUMENT,
    TOUCH_WRITE,
    ExitCase,
    page_checksum,
    pattern_page,
    touch_mark,
    touch_table,
)
from kvmharness.machine.slot import Backing

DATA = 0x8_0000
TABLE = 0x4_0000
PAGES = 6
BACKINGS = list(get_args(Backing))


def modes_of(name: str) -> list[str]:
    return [str(mode) for mode in payload.load(name).modes]


def in_its_modes(*names: str) -> pytest.MarkDecorator:
    pairs = [(name, mode) for name in names for mode in modes_of(name)]
    return pytest.mark.parametrize(("name", "mode"), pairs, ids=[f"{n}-{m}" for n, m in pairs])


@pytest.fixture(params=BACKINGS)
def builder(request: pytest.FixtureRequest, vm_builder: Callable[..., VmBuilder]) -> VmBuilder:
    return vm_builder().memory(0, 1 << 20, request.param)


@pytest.mark.scenario("run.payload.hello")
@in_its_modes("hello", "hello16")
def test_hello(builder: VmBuilder, name: str, mode: str) -> None:
    with builder.payload(name, mode).build() as machine:
        run = machine.run()
    assert run.status == 0
    assert run.console == payload.load(name).console
    assert run.words == []
    assert run.exits == len(run.console) + 1
    assert isinstance(run.exit, IoExit)


@pytest.mark.scenario("run.payload.checksum")
@in_its_modes("checksum")
def test_checksum(builder: VmBuilder, name: str, mode: str) -> None:
    contents = numbered_pages(PAGES)
    with builder.payload(name, mode, start=DATA, pages=PAGES).build() as machine:
        machine.write(DATA, contents)
        run = machine.run()
    assert run.status == 0
    assert run.words == [
        page_checksum(contents[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]) for page in range(PAGES)
    ]


@pytest.mark.scenario("run.payload.pattern")
@in_its_modes("pattern")
def test_pattern(builder: VmBuilder, name: str, mode: str) -> None:
    seed = 0xDEAD_BEEF_0123_4567
    with builder.payload(name, mode, start=DATA, pages=PAGES, seed=seed).build() as machine:
        run = machine.run()
        assert (run.status, run.words) == (0, [PAGES])
        for page in range(PAGES):
            gpa = DATA + page * PAGE_SIZE
            assert machine.read(gpa, PAGE_SIZE) == pattern_page(seed, gpa)
        assert machine.read(DATA - PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
        assert machine.read(DATA + PAGES * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)


@pytest.mark.scenario("run.payload.touch")
@in_its_modes("touch")
def test_touch(builder: VmBuilder, name: str, mode: str) -> None:
    entries = [(DATA, TOUCH_WRITE), (DATA + PAGE_SIZE, 0), (DATA, 0), (DATA + 8, TOUCH_WRITE)]
    with builder.payload(name, mode, table=TABLE, count=len(entries)).build() as machine:
        machine.write(TABLE, touch_table(entries))
        machine.write(DATA, struct.pack("<QQ", 11, 12))
        machine.write(DATA + PAGE_SIZE, struct.pack("<Q", 13))
        run = machine.run()
        wanted = [DATA, 11, DATA + PAGE_SIZE, 13, DATA, touch_mark(DATA), DATA + 8, 12]
        assert (run.status, run.words) == (0, wanted)
        marks = struct.pack("<QQ", touch_mark(DATA), touch_mark(DATA + 8))
        assert machine.read(DATA, 16) == marks


@pytest.mark.scenario("run.payload.endless")
@in_its_modes("spin", "spin16")
def test_endless_payloads_are_ended_by_deadline_and_kick(
    builder: VmBuilder, name: str, mode: str
) -> None:
    with builder.payload(name, mode).build() as machine:
        with pytest.raises(RunTimeout):
            machine.run(0.05)
        thread = machine.start(timeout=20)
        run = thread.stop()
        assert isinstance(run.exit, InterruptedExit)
        assert (run.status, run.console, run.words) == (None, "", [])


@pytest.mark.scenario("run.payload.ticker")
@in_its_modes("ticker")
def test_ticker_goes_on_where_it_was(builder: VmBuilder, name: str, mode: str) -> None:
    with builder.payload(name, mode, counter=DATA).build() as machine:
        counts = [0]
        for _ in range(3):
            with pytest.raises(RunTimeout):
                machine.run(0.02)
            counts.append(int.from_bytes(machine.read(DATA, 8), "little"))
        assert counts == sorted(set(counts)), "each run has to add to the count"


@pytest.mark.scenario("run.payload.exits_bad_case")
@in_its_modes("exits")
def test_a_payload_says_when_an_argument_is_bad(builder: VmBuilder, name: str, mode: str) -> None:
    with builder.payload(name, mode, case=max(ExitCase) + 1).build() as machine:
        assert machine.run().status == STATUS_BAD_ARGUMENT


def test_no_payload_is_left_out() -> None:
    """A payload added to the manifest has to be run here (exits: in test_run_exits.py too)."""
    tested = {"hello", "hello16", "checksum", "pattern", "touch", "spin", "spin16", "ticker"}
    assert set(payload.names()) == tested | {"exits"}


@pytest.mark.scenario("run.payload.elsewhere")
@pytest.mark.parametrize("mode", modes_of("hello"))
def test_a_payload_runs_where_it_is_loaded(vm_builder: Callable[..., VmBuilder], mode: str) -> None:
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(0x5000_0000, 1 << 20, "memfd")
    with builder.payload("hello", mode, load_gpa=0x5000_3000).build() as machine:
        run = machine.run()
        assert run.console == "hello from guest_memfd\n"
        assert machine.vcpus[0].get_regs().rip >> 12 == 0x50003


@pytest.mark.scenario("run.payload.two_at_once")
def test_two_payloads_on_two_vcpus(builder: VmBuilder) -> None:
    builder.payload("hello", vcpu=0)
    builder.payload("pattern", vcpu=1, load_gpa=0x2_0000, start=DATA, pages=1, seed=3)
    with builder.build() as machine:
        hello, pattern = machine.run_all()
        assert hello.console == "hello from guest_memfd\n"
        assert pattern.words == [1]
        assert machine.read(DATA, PAGE_SIZE) == pattern_page(3, DATA)


@pytest.mark.scenario("run.payload.one_copy")
@pytest.mark.parametrize("mode", modes_of("hello"))
def test_one_copy_runs_on_every_vcpu_at_once(builder: VmBuilder, mode: str) -> None:
    with builder.vcpus(4).payload("hello", mode).build() as machine:
        assert len(machine.vcpus) == 4
        runs = machine.run_all()
    assert [run.console for run in runs] == ["hello from guest_memfd\n"] * 4
    assert [run.status for run in runs] == [0] * 4


@pytest.mark.scenario("run.payload.again")
def test_one_vcpu_runs_payloads_of_all_modes_in_turn(builder: VmBuilder) -> None:
    with builder.payload("hello").build() as machine:
        turns = ["long-cpl3", "real", "long-cpl0", "long-cpl3", "long-cpl0", "real", "real"]
        for mode in turns:
            name = "hello16" if mode == "real" else "hello"
            machine.enter(name, mode)
            assert machine.run().console == payload.load(name).console


def reaches(machine: Machine) -> int:
    """Return how many GiB the machine's page tables map (a PDPT entry each)."""
    assert machine.page_table is not None
    pdpt = machine.read(machine.page_table + PAGE_SIZE, PAGE_SIZE)
    return sum(1 for entry in struct.unpack("<512Q", pdpt) if entry & 1)


@pytest.mark.scenario("run.payload.high_memory")
@pytest.mark.parametrize("gib", [0, 4, 64, 511])
def test_page_tables_reach_the_highest_slot(vm_builder: Callable[..., VmBuilder], gib: int) -> None:
    """The builder's page tables are as large as the memory needs, and are themselves elsewhere."""
    gpa = (gib << 30) + (1 << 20)
    builder = vm_builder().memory(0, 1 << 20, "anonymous").memory(gpa, 1 << 20, "guest_memfd")
    with builder.payload("pattern", start=gpa, pages=2, seed=gib).build() as machine:
        assert machine.run().status == 0
        assert machine.read(gpa, PAGE_SIZE) == pattern_page(gib, gpa)
        assert reaches(machine) == max(4, gib + 1)
