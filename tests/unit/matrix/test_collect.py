# SPDX-License-Identifier: MIT
"""Observing on hosts that are fakes: crashes, hangs and noise become cells; the rest is cached."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmharness import progress
from kvmharness.errors import MissingCapability, UsageError
from kvmharness.host_kinds import EMULATED
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.hosts.processors import WithProcessors
from kvmharness.hosts.qemu import Qemu
from kvmharness.kernel_log.log import KernelLine
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.patch_tool import DoesNotApply
from kvmharness.kvm.vmtypes import VmType
from kvmharness.labels import HostLabel
from kvmharness.matrix import collect, stored
from kvmharness.matrix.collect import Place, Request
from kvmharness.matrix.model import Column
from kvmharness.report.records import Record
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.outcome import step_as_json
from kvmharness.scenarios.scenario import Scenario

from ..kernels.elf_modules import kernel_module
from ..steps import step

LABEL = HostLabel("emulated-snp", "7.3.4-amd64")
FINISHED = HostRun(Verdict.FINISHED, 0, 1.0)
#: What a fake process does with a scenario: a result to report, or how it ends instead.
Play = Callable[[str], "str | HostRun"]


class FakeHost:
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

        def say(value: dict[str, Any]) -> None:
            line = json.dumps(value).encode() + b"\n"
            # In two pieces: a pipe breaks lines where it likes.
            take("stderr", line[:10])
            take("stderr", line[10:])

        say({"event": "plan", "tests": [[name, name] for name in ids]})
        for scenario_id in ids:
            say({"event": "start", "id": scenario_id, "nodeid": scenario_id})
            what = self.play(scenario_id)
            if isinstance(what, HostRun):
                take("stderr", b"the last words\n")
                return what
            details = {"outcome": {"result": what, "steps": [step_as_json(step(what))]}}
            say(Record.of(LABEL, scenario_id, scenario_id, "passed", details=details).as_dict())
        say({"event": "end", "exitstatus": 0})
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
def observe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Column, FakeHost]]:
    def observe_(
        play: Play, request: Request, kind: str = "emulated-snp", kernel: str = "7.3"
    ) -> tuple[Column, FakeHost]:
        host = FakeHost(play)
        label = HostLabel(kind, "7.3.4-amd64")
        identity = None if kind == "native" else "emulated-snp-7.3.4"
        monkeypatch.setattr(collect, "_prepare", lambda place, vm_type: (host, label, identity))
        (column,) = collect.collect([Place(kind, kernel)], request)
        return column, host

    return observe_


Observe = Callable[..., tuple[Column, FakeHost]]


def ok(scenario_id: str) -> str:
    return "ok"


def test_every_scenario_gets_its_cell(observe: Observe) -> None:
    column, host = observe(ok, Request(VmType.SNP, scenarios("a", "b")))
    assert {name: cell.words for name, cell in column.cells.items()} == {"a": "ok", "b": "ok"}
    assert (column.name, column.short, column.absent) == ("7.3.4-amd64", "7.3.4", "")
    assert host.runs == [["a", "b"]]
    assert 0 < column.seconds < 60
    assert observe(ok, Request(VmType.SNP, scenarios("a", "b")))[0].seconds == 0  # from the cache


def test_a_crash_is_a_cell_and_the_rest_goes_on_in_another_process(observe: Observe) -> None:
    panic = HostRun(
        Verdict.PANIC,
        None,
        2.0,
        "the kernel panicked",
        console_tail="x\nBUG: unable to y, z",
        kernel_log=[KernelLine(None, 1.0, "x"), KernelLine(None, 1.0, "BUG: unable to y, z")],
    )
    column, host = observe(
        lambda name: panic if name == "b" else "ok", Request(VmType.SNP, scenarios("a", "b", "c"))
    )
    assert host.runs == [["a", "b", "c"], ["c"]]
    crashed = column.cells["b"]
    assert (crashed.result, crashed.reason) == (
        "crash",
        "panic: the kernel panicked; the kernel logged: BUG unable to y",
    )
    assert [line.split("] ")[1] for line in crashed.log_lines] == ["x", "BUG: unable to y, z"]
    assert crashed.log == ("BUG unable to y",)
    assert column.cells["c"].words == "ok"


def test_a_signal_is_named(observe: Observe) -> None:
    killed = HostRun(Verdict.FINISHED, 139, 1.0)
    column, _ = observe(
        lambda name: killed if name == "a" else "ok", Request(VmType.SNP, scenarios("a", "b"))
    )
    assert column.cells["a"].reason == "the test process was killed by SIGSEGV"


def test_a_hang_takes_the_rest_of_the_time(
    observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "DEADLINE", 0.0)
    late = HostRun(Verdict.TIMEOUT, None, 9.0, "still running")
    some = Request(VmType.SNP, scenarios("a", "b", "c"))
    column, host = observe(lambda name: late if name == "b" else "ok", some)
    assert len(host.runs) == 1
    assert column.cells["b"].result == "hang"
    assert column.cells["c"].result == "skip"
    assert column.cells["c"].reason == "not run: the run's time was over"
    # Neither is kept: they are tried again.
    _, host = observe(ok, some)
    assert host.runs == [["b", "c"]]


def test_a_host_that_crashes_for_ever_is_given_up(observe: Observe) -> None:
    names = [f"s{number}" for number in range(20)]
    column, host = observe(
        lambda name: HostRun(Verdict.PANIC, None, 1.0, "panic"),
        Request(VmType.SNP, scenarios(*names)),
    )
    assert len(host.runs) == 11
    assert sum(cell.result == "crash" for cell in column.cells.values()) == 11


@pytest.mark.parametrize(
    ("outcome", "cause", "result"),
    [
        ("skipped", "", "skip"),
        ("error", "not-run", "skip"),
        ("failed", "", "crash"),
        ("failed", "timeout", "hang"),
        ("error", "timeout", "hang"),
        ("error", "", "error"),
    ],
)
def test_a_record_without_an_outcome_is_a_cell_that_says_why(
    outcome: Any, cause: Any, result: str
) -> None:
    record = Record.of(LABEL, "a", "a", outcome, cause=cause, reason="why", report="x\ny")
    cell = collect.cell_of(record)
    assert (cell.result, cell.reason) == (result, "why")
    assert cell.log_lines == (() if result == "skip" else ("x", "y"))


def test_a_crash_s_cell_holds_what_the_kernel_said_where_that_is_known() -> None:
    said = ("[    1.000000] WARNING: CPU: 0 PID: 1 at f.c:1 kvm_f+0x1/0x2 [kvm]",)
    record = Record.of(LABEL, "a", "a", "failed", report="x", kernel_log=said)
    cell = collect.cell_of(record)
    assert (cell.log_lines, cell.log) == (said, ("WARNING kvm_f",))


def test_a_host_that_never_starts_is_a_column_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(FakeHost):
        def run(self, argv: Sequence[str], **options: Any) -> HostRun:
            return HostRun(Verdict.BOOT_FAILED, None, 1.0, "no kernel")

    label = HostLabel("emulated-snp", "7.3.4")
    hosts = iter([Dead(ok), FakeHost(ok)])
    monkeypatch.setattr(collect, "_prepare", lambda place, vm_type: (next(hosts), label, None))
    places = [Place("emulated-snp", "7.3"), Place("emulated-snp", "7.2")]
    dead, alive = collect.collect(places, Request(VmType.SNP, scenarios("a")))
    assert re.search(r"nothing could be observed .*boot-failed: no kernel", dead.absent)
    assert dead.cells["a"].result == "error"
    assert alive.cells["a"].words == "ok"  # the next one is observed all the same


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


def test_the_code_that_counts_is_where_it_is_looked_for() -> None:
    package = Path(stored.__file__).parents[1]
    assert [pattern for pattern in stored.SOURCES if not any(package.glob(pattern))] == []


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


def test_what_was_loaded_with_other_options_is_another_column_and_cached_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "modules" / "kvm.ko"
    module.parent.mkdir()
    module.write_bytes(kernel_module(modinfo=b"depends=\0parmtype=tdp_mmu:bool\0"))
    ready = EmulatedHost(
        EMULATED["emulated-snp"],
        Kernel("7.3.4-amd64", tmp_path / "vmlinux", module.parent, "nowhere"),
        Qemu(("false",), "10"),
        {"snp_standin": module, "kvm-amd": module},
        module,
        {"kernel": "7.3.4-amd64", "kernel_origin": "nowhere", "qemu": "10", "standin": "0"},
    )
    monkeypatch.setattr(EmulatedHost, "prepare", lambda kind, kernel: ready)
    played = FakeHost(ok)
    monkeypatch.setattr(WithProcessors, "run", lambda self, *a, **k: played.run(*a, **k))
    places = [Place("emulated-snp", "7.3"), Place("emulated-snp", "7.3", (), ("kvm.tdp_mmu=0",))]
    request = Request(VmType.SNP, scenarios("a"))
    columns = list(collect.collect(places, request))
    assert [c.name for c in columns] == ["7.3.4-amd64", "7.3.4-amd64 kvm.tdp_mmu=0"]
    assert [c.short for c in columns] == ["7.3.4", "7.3.4 kvm.tdp_mmu=0"]
    assert [c.tells_release for c in columns] == [True, True]
    assert len(played.runs) == 2
    wrong = [Place("emulated-snp", "7.3", (), ("kvm.tdp_mu=0",))]
    with pytest.raises(UsageError, match="no parameter tdp_mu"):
        list(collect.collect([*places, *wrong], Request(VmType.SNP, scenarios("a", "b"))))
    assert len(played.runs) == 2  # nothing was observed before that was said


@pytest.mark.parametrize("error", [BuildFailed("x.c:1: error: no"), DoesNotApply("x.c: hunk 1")])
def test_patches_that_do_not_build_are_a_column_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def prepare(place: Place, vm_type: VmType) -> tuple[FakeHost, HostLabel, None]:
        if place.kernel == "7.3+bad.patch":
            raise error
        return FakeHost(ok), LABEL, None

    monkeypatch.setattr(collect, "_prepare", prepare)
    places = [Place("emulated-snp", kernel) for kernel in ("7.3+bad.patch", "7.3")]
    bad, good = collect.collect(places, Request(VmType.SNP, scenarios("a")))
    assert (bad.short, bad.absent, bad.cells["a"].result) == ("7.3+bad.patch", str(error), "error")
    assert good.cells["a"].result == "ok"


def test_trees_are_called_by_their_directories_and_names_are_unique(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = HostLabel("emulated-snp", "7.3.0")
    monkeypatch.setattr(collect, "_prepare", lambda place, vm_type: (FakeHost(ok), label, None))
    trees = [tmp_path / name for name in ("linux-base", "linux-patched")]
    for tree in trees:
        tree.mkdir()
    places = [Place("emulated-snp", str(tree)) for tree in trees]
    places += [Place("emulated-snp", "7.3"), Place("emulated-snp", "7.3.0")]
    columns = list(collect.collect(places, Request(VmType.SNP, scenarios("a"))))
    assert [c.name for c in columns] == ["linux-base", "linux-patched", "7.3.0", "7.3.0 (2)"]
    assert (columns[0].short, columns[0].tells_release) == ("linux-base", False)
