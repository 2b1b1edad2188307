# SPDX-License-Identifier: MIT
"""Has hosts observe scenarios, one host after another, and puts what they saw into columns."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmharness import labels, progress, resources
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.host_kinds import NATIVE
from kvmharness.hosts.host import Host
from kvmharness.hosts.supervise import Job, supervise
from kvmharness.kernel_log.classify import findings, texts
from kvmharness.kernel_log.log import parse_console
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.patch_tool import DoesNotApply
from kvmharness.labels import HostLabel
from kvmharness.matrix.model import CRASH, ERROR, HANG, SKIP, Cell, Column
from kvmharness.matrix.stored import Stored
from kvmharness.report.records import Record
from kvmharness.report.result import HostResult
from kvmharness.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from kvmharness.kvm.vmtypes import VmType

#: Seconds for all scenarios of one host together.
DEADLINE = 1200.0
#: Lines of a crash kept in its cell.
_TAIL = 100


@dataclass(frozen=True)
class Place:
    """A host to be: its kind, and an emulated one's kernel: what spec.py reads, or one ready.

    `modules`: files in place of the kernel's own, each ``NAME=PATH``; `module_options`: what its
    modules are loaded with, each ``MODULE.NAME=VALUE``.
    """

    kind: str
    kernel: str | Kernel = ""
    modules: tuple[str, ...] = ()
    module_options: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """What the user called it."""
        kernel = self.kernel.label if isinstance(self.kernel, Kernel) else self.kernel
        return self.changed(kernel or self.kind)

    def changed(self, name: str) -> str:
        """Return what the kernel called `name` is called for what is changed of it."""
        files = (Path(given.partition("=")[2]).name for given in self.modules)
        return " ".join(("+".join((name, *files)), *self.module_options))


@dataclass(frozen=True)
class Request:
    """Which scenarios, by id. `fresh`: whatever is cached. `destructive`: on this machine too."""

    vm_type: VmType
    scenarios: Mapping[str, Scenario]
    fresh: bool = False
    destructive: bool = False


def collect(places: Sequence[Place], request: Request) -> Iterator[Column]:
    """Observe on each place in turn, a column each.

    One that can't be had, or whose kernel observed nothing, gives a column that says why. Raises
    UsageError for a module or an option that is not there, before anything is observed.
    """
    for place in places:
        if place.modules or place.module_options:
            with contextlib.suppress(MissingCapability):
                _prepare(place, request.vm_type)
    taken: set[str] = set()
    for place in places:
        column = _column(place, request, taken)
        taken.add(column.name)
        yield column


def _column(place: Place, request: Request, taken: set[str]) -> Column:
    try:
        host, label, identity = _prepare(place, request.vm_type)
    except MissingCapability as error:
        return absent(place, request, taken, Cell(SKIP, str(error)))
    except (BuildFailed, DoesNotApply) as error:
        return absent(place, request, taken, Cell(ERROR, str(error)))
    name, facts = _free(_name(place, label), taken), dict(host.facts)
    try:
        cells, seconds = _Observation(host, label, identity, request).cells()
    except _NothingObserved as error:
        cells = dict.fromkeys(request.scenarios, Cell(ERROR, str(error)))
        return Column(name, label, facts, cells, str(error))
    return Column(name, label, facts, cells, "", seconds)


def _name(place: Place, label: HostLabel) -> str:
    """Return the kernel's release, or the name of a tree's directory: two trees may be of one."""
    from kvmharness.kernels import spec

    if isinstance(place.kernel, str) and place.kernel and spec.is_tree(place.kernel):
        return place.changed(Path(place.kernel).expanduser().resolve().name)
    return label.kernel


def _free(name: str, taken: Collection[str]) -> str:
    chosen, number = name, 2
    while chosen in taken:
        chosen, number = f"{name} ({number})", number + 1
    return chosen


def absent(place: Place, request: Request, taken: Collection[str], cell: Cell) -> Column:
    """Return the column of a place that was not observed: `cell`, with its reason, for each."""
    label = HostLabel(place.kind, place.wanted) if place.kernel else labels.current()
    cells = dict.fromkeys(request.scenarios, cell)
    return Column(_free(place.wanted, taken), label, {}, cells, absent=cell.reason)


def _prepare(place: Place, vm_type: VmType) -> tuple[Host, HostLabel, str | None]:
    """Return the host, its label, and under what its cells are cached (None: they are not)."""
    if place.kind == NATIVE:
        from kvmharness.hosts.native import NativeHost
        from kvmharness.kvm.system import Kvm

        Kvm.open().close()
        return NativeHost(), labels.current(), None
    from kvmharness.hosts.emulated import EmulatedHost
    from kvmharness.hosts.processors import WithProcessors

    host = EmulatedHost.prepare(place.kind, place.kernel).with_modules(place.modules)
    host = host.with_module_options(place.module_options)
    facts = host.facts
    parts = [place.kind, vm_type.label, host.kernel.identity]
    parts += [str(facts[name]) for name in ("kernel_origin", "qemu", "standin")]
    parts += place.module_options
    return WithProcessors(host), host.label, "-".join(parts)


class _NothingObserved(HarnessError):
    """A host ran no scenario at all: it did not boot, or its process did not begin."""


@dataclass
class _Observation:
    """One host's cells: those cached, then what as many processes as it takes say of the rest."""

    host: Host
    label: HostLabel
    identity: str | None
    request: Request
    seen: dict[str, Cell] = field(default_factory=dict)
    not_run: dict[str, Cell] = field(default_factory=dict)

    def cells(self) -> tuple[dict[str, Cell], float]:
        """Return a cell for each scenario, and the seconds it took to see what was not cached."""
        stored = None if self.identity is None else Stored(self.identity)
        cells = {} if stored is None or self.request.fresh else stored.read()
        cells = {name: cell for name, cell in cells.items() if name in self.request.scenarios}
        seconds = 0.0
        if left := self._left(cells):
            try:
                seconds = self._observe(left)
            finally:
                # Also what was seen before an interruption.
                if stored is not None:
                    stored.add(self.seen)
        cells |= self.seen | self.not_run
        refused = Cell(SKIP, "it can take the host down; give --destructive to run it here")
        return {name: cells.get(name, refused) for name in self.request.scenarios}, seconds

    def _left(self, cells: Mapping[str, Cell]) -> list[str]:
        """Return what is still to be observed, what can take the kernel down last."""
        anything = self.label.emulated or self.request.destructive
        scenarios = self.request.scenarios
        left = [name for name in scenarios if name not in cells]
        harmless = [name for name in left if not scenarios[name].destructive]
        return harmless + [name for name in left if anything and scenarios[name].destructive]

    def _observe(self, ids: list[str]) -> float:
        def argv(done: Collection[str]) -> list[str]:
            left = [name for name in ids if name not in done]
            module = ("-m", "kvmharness.matrix.observe", self.request.vm_type.label)
            return [sys.executable, "-P", *module, *left]

        top = resources.checkout_dir()
        job = Job(argv, DEADLINE, {"PYTHONPATH": str(top)} if top else {})
        result = HostResult(self.label, self.host.facts)
        words = f"{self.label.kind}, Linux {self.label.kernel}: {len(ids)} scenarios"
        with progress.step(words) as report:

            def take(event: Record | dict[str, Any]) -> None:
                if isinstance(event, Record) and not event.is_of_host:
                    cells = self.seen if event.ran else self.not_run
                    cells[event.id] = cell_of(event)
                    report(len(self.seen) / len(ids))

            supervise(self.host, job, result, take)
        if not self.seen:
            for record in result.records:
                if record.report:
                    progress.note(record.report)
            why = "; ".join(record.reason for record in result.records)
            raise _NothingObserved(f"nothing could be observed on {self.label.words}: {why}")
        return result.seconds


def cell_of(record: Record) -> Cell:
    """Return the cell that a record of a scenario makes: its outcome, or why there is none."""
    if record.outcome == "passed":
        return Cell.from_json(record.details["outcome"])
    if record.outcome == "skipped" or not record.ran:
        return Cell(SKIP, record.reason)
    log = tuple(texts(findings(parse_console("\n".join(record.kernel_log)))))
    lines = list(record.kernel_log) or record.report.splitlines()
    result = HANG if record.cause == "timeout" else ERROR if record.outcome == "error" else CRASH
    return Cell(result, record.reason, log=log, log_lines=tuple(lines[-_TAIL:]))
