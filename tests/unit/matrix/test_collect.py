# SPDX-License-Identifier: MIT
"""Observing on hosts that are played: crashes, hangs and noise become cells; the rest is cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmharness import progress
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.kvm.vmtypes import VmType
from kvmharness.labels import HostLabel
from kvmharness.matrix import collect, stored
from kvmharness.matrix.collect import Place, Request
from kvmharness.matrix.model import Column
from kvmharness.scenarios.engine import Bench, Scenario
from kvmharness.scenarios.outcome import step_as_json

from ..steps import step

FINISHED = HostRun(Verdict.FINISHED, 0, 1.0)
#: What a played process does with a scenario: a result to report, or how it ends instead.
Play = Callable[[str], "str | HostRun"]


class Played:
    """A host whose processes do what `play` says."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.runs: list[list[str]] = []
        self.options: list[dict[str, Any]] = []
        self.facts = {"qemu": "10"}

    def run(self, argv: Sequence[str], **options: Any) -> HostRun:
        ids = list(argv[argv.index("snp") + 1 :])
        self.runs.append(ids)
        take = options.pop("on_output")
        self.options.append(options)
        for scenario_id in ids:
            take("stdout", json.dumps({"start": scenario_id}).encode() + b"\n")
            what = self.play(scenario_id)
            if isinstance(what, HostRun):
                take("stderr", b"the last words\n")
                return what
            steps = [step_as_json(step(what))]
            line = json.dumps({"id": scenario_id, "result": what, "steps": steps}).encode() + b"\n"
            # In two pieces: a pipe breaks lines where it likes.
            take("stdout", line[:10])
            take("stdout", line[10:])
        return FINISHED


def scenarios(*names: str, destructive: Sequence[str] = ()) -> dict[str, Scenario]:
    made = [
        Scenario(name, VmType.SNP, "", lambda bench: None, Bench, (), name in destructive)
        for name in names
    ]
    return {scenario.id: scenario for scenario in made}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path))
    with progress.muted():
        yield


@pytest.fixture
def observe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Column, Played]]:
    def observe_(
        play: Play, request: Request, kind: str = "emulated-snp", kernel: str = "7.3"
    ) -> tuple[Column, Played]:
        host = Played(play)
        label = HostLabel(kind, "7.3.4-amd64")
        identity = None if kind == "native" else "emulated-snp-7.3.4"
        monkeypatch.setattr(collect, "_prepare", lambda place, vm_type: (host, label, identity))
        (column,) = collect.collect([Place(kind, kernel)], request)
        return column, host

    return observe_


Observe = Callable[..., tuple[Column, Played]]


def ok(scenario_id: str) -> str:
    return "ok"


def test_every_scenario_gets_its_cell(observe: Observe) -> None:
    column, host = observe(ok, Request(VmType.SNP, scenarios("a", "b")))
    assert {name: cell.words for name, cell in column.cells.items()} == {"a": "ok", "b": "ok"}
    assert (column.name, column.short, column.absent) == ("7.3.4-amd64", "7.3.4", "")
    assert host.runs == [["a", "b"]]
    assert column.seconds == 1.0


def test_a_crash_is_a_cell_and_the_rest_goes_on_in_another_process(observe: Observe) -> None:
    panic = HostRun(
        Verdict.PANIC, None, 2.0, "the kernel panicked", console_tail="x\nBUG: unable to y, z"
    )
    column, host = observe(
        lambda name: panic if name == "b" else "ok", Request(VmType.SNP, scenarios("a", "b", "c"))
    )
    assert host.runs == [["a", "b", "c"], ["c"]]
    crashed = column.cells["b"]
    assert (crashed.result, crashed.reason) == ("crash", "panic: the kernel panicked")
    assert crashed.log_lines == ("x", "BUG: unable to y, z")
    assert crashed.log == ("BUG unable to y",)
    assert column.cells["c"].words == "ok"


def test_a_signal_is_named(observe: Observe) -> None:
    killed = HostRun(Verdict.FINISHED, 139, 1.0)
    column, _ = observe(
        lambda name: killed if name == "a" else "ok", Request(VmType.SNP, scenarios("a", "b"))
    )
    assert column.cells["a"].reason == "the process was killed by SIGSEGV: the last words"


def test_a_hang_ends_the_run_and_the_rest_says_so(observe: Observe) -> None:
    late = HostRun(Verdict.TIMEOUT, None, 9.0, "still running")
    column, host = observe(
        lambda name: late if name == "b" else "ok", Request(VmType.SNP, scenarios("a", "b", "c"))
    )
    assert len(host.runs) == 1
    assert column.cells["b"].result == "hang"
    assert column.cells["c"].result == "skip"
    assert "b ended the run" in column.cells["c"].reason


def test_a_host_that_crashes_for_ever_is_given_up(observe: Observe) -> None:
    names = [f"s{number}" for number in range(20)]
    column, host = observe(
        lambda name: HostRun(Verdict.PANIC, None, 1.0, "panic"),
        Request(VmType.SNP, scenarios(*names)),
    )
    assert len(host.runs) == 10
    assert sum(cell.result == "crash" for cell in column.cells.values()) == 10


def test_a_host_that_never_starts_is_an_error(observe: Observe) -> None:
    class Dead(Played):
        def run(self, argv: Sequence[str], **options: Any) -> HostRun:
            return HostRun(Verdict.BOOT_FAILED, None, 1.0, "no kernel")

    host = Dead(ok)
    label = HostLabel("emulated-snp", "7.3.4")
    observation = collect._Observation(
        host,  # type: ignore[arg-type]
        label,
        None,
        Request(VmType.SNP, scenarios("a")),
    )
    with pytest.raises(HarnessError, match=r"nothing could be observed .*boot-failed: no kernel"):
        observation.cells()


def test_what_can_take_the_host_down_comes_last_and_natively_when_asked(observe: Observe) -> None:
    some = scenarios("a", "b", "c", destructive=["a"])
    _, host = observe(ok, Request(VmType.SNP, some))
    assert host.runs == [["b", "c", "a"]]
    column, host = observe(ok, Request(VmType.SNP, some), "native", "")
    assert host.runs == [["b", "c"]]
    assert "--destructive" in column.cells["a"].reason
    _, host = observe(ok, Request(VmType.SNP, some, destructive=True), "native", "")
    assert host.runs == [["b", "c", "a"]]


def test_what_was_observed_is_not_observed_again(observe: Observe) -> None:
    observe(ok, Request(VmType.SNP, scenarios("a", "b")))
    column, host = observe(lambda name: "EIO", Request(VmType.SNP, scenarios("b", "c")))
    assert host.runs == [["c"]]
    assert (column.cells["b"].words, column.cells["c"].words) == ("ok", "EIO")
    column, host = observe(lambda name: "EIO", Request(VmType.SNP, scenarios("a"), fresh=True))
    assert host.runs == [["a"]]
    assert column.cells["a"].words == "EIO"


def test_a_crash_is_tried_again_and_a_native_host_always(observe: Observe) -> None:
    panic = HostRun(Verdict.PANIC, None, 1.0, "panic")
    observe(lambda name: panic, Request(VmType.SNP, scenarios("a")))
    column, _ = observe(ok, Request(VmType.SNP, scenarios("a")))
    assert column.cells["a"].words == "ok"
    for _ in range(2):
        _, host = observe(ok, Request(VmType.SNP, scenarios("a")), "native", "")
        assert host.runs == [["a"]]


def test_what_was_seen_before_an_interruption_is_kept(observe: Observe) -> None:
    def interrupted(name: str) -> str:
        if name == "b":
            raise KeyboardInterrupt
        return "ok"

    request = Request(VmType.SNP, scenarios("a", "b"))
    with pytest.raises(KeyboardInterrupt):
        observe(interrupted, request)
    _, host = observe(ok, request)
    assert host.runs == [["b"]]


def test_other_code_has_other_cells(observe: Observe, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(ok, Request(VmType.SNP, scenarios("a")))
    monkeypatch.setattr(stored, "code_version", lambda: "another")
    _, host = observe(ok, Request(VmType.SNP, scenarios("a")))
    assert host.runs == [["a"]]


def test_a_damaged_cache_is_no_cache(observe: Observe, tmp_path: Path) -> None:
    observe(ok, Request(VmType.SNP, scenarios("a")))
    (file,) = (tmp_path / "matrix").glob("*.json")
    file.write_text('{"a": 5}')
    _, host = observe(ok, Request(VmType.SNP, scenarios("a")))
    assert host.runs == [["a"]]


def test_a_host_that_cannot_be_had_is_a_column_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(place: Place, vm_type: VmType) -> None:
        raise MissingCapability("kernel 5.10", "the archive has only 6.12")

    monkeypatch.setattr(collect, "_prepare", absent)
    request = Request(VmType.SNP, scenarios("a"))
    (column,) = collect.collect([Place("emulated-snp", "5.10")], request)
    assert column.absent == "kernel 5.10: the archive has only 6.12"
    assert column.cells["a"].result == "skip"


def test_trees_are_called_by_their_folders_and_names_are_unique(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = HostLabel("emulated-snp", "7.3.0")
    monkeypatch.setattr(collect, "_prepare", lambda place, vm_type: (Played(ok), label, None))
    trees = [tmp_path / name for name in ("linux-base", "linux-patched")]
    for tree in trees:
        tree.mkdir()
    places = [Place("emulated-snp", str(tree)) for tree in trees]
    places += [Place("emulated-snp", "7.3"), Place("emulated-snp", "7.3.0")]
    columns = collect.collect(places, Request(VmType.SNP, scenarios("a")))
    assert [c.name for c in columns] == ["linux-base", "linux-patched", "7.3.0", "7.3.0 (2)"]
    assert columns[0].short == "linux-base"
