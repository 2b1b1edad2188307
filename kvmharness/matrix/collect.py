# SPDX-License-Identifier: MIT
"""Has hosts observe scenarios, one host after another, and puts what they saw into columns."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmharness import labels, progress, resources
from kvmharness.errors import HarnessError, MissingCapability
from kvmharness.hosts.host import HostRun, Verdict
from kvmharness.labels import NATIVE, HostLabel
from kvmharness.matrix.model import CRASH, HANG, SKIP, Cell, Column
from kvmharness.matrix.stored import Stored
from kvmharness.scenarios.engine import Scenario, classify

if TYPE_CHECKING:
    from kvmharness.hosts.emulated import EmulatedHost
    from kvmharness.hosts.native import NativeHost
    from kvmharness.kvm.vmtypes import VmType

#: Seconds for all scenarios of one host together.
DEADLINE = 1200.0
#: How often a kernel that went down is booted again for the scenarios that are left.
_CRASHES = 10
#: Lines of a crash kept in its cell.
_TAIL = 60
#: Races want two processors.
_SMP = 2


@dataclass(frozen=True)
class Place:
    """A host to be: its kind, and an emulated one's kernel (a series, ``newest`` or a path)."""

    kind: str
    kernel: str = ""

    @property
    def wanted(self) -> str:
        """What the user called it."""
        return self.kernel or self.kind


@dataclass(frozen=True)
class Request:
    """Which scenarios, by id. `fresh`: whatever is cached. `destructive`: on this machine too."""

    vm_type: VmType
    scenarios: Mapping[str, Scenario]
    fresh: bool = False
    destructive: bool = False


def collect(places: Sequence[Place], request: Request) -> list[Column]:
    """Observe on each place in turn; one that can't be had gives a column that says why."""
    columns: list[Column] = []
    for place in places:
        columns.append(_column(place, request, {column.name for column in columns}))
    return columns


def _column(place: Place, request: Request, taken: set[str]) -> Column:
    try:
        host, label, identity = _prepare(place, request.vm_type)
    except MissingCapability as error:
        return _absent(place, request, taken, str(error))
    cells, seconds = _Observation(host, label, identity, request).cells()
    return Column(_free(_name(place, label), taken), label, dict(host.facts), cells, "", seconds)


def _name(place: Place, label: HostLabel) -> str:
    """Return the kernel's release, or the name of a tree's folder: two trees may be of one."""
    from kvmharness.kernels import kernels

    if place.kernel and kernels.is_tree(place.kernel):
        return Path(place.kernel).expanduser().resolve().name
    return label.kernel


def _free(name: str, taken: set[str]) -> str:
    chosen, number = name, 2
    while chosen in taken:
        chosen, number = f"{name} ({number})", number + 1
    return chosen


def _absent(place: Place, request: Request, taken: set[str], reason: str) -> Column:
    label = HostLabel(place.kind, place.kernel) if place.kernel else labels.current()
    cells = {name: Cell(SKIP, reason) for name in request.scenarios}
    return Column(_free(place.wanted, taken), label, {}, cells, absent=reason)


def _prepare(
    place: Place, vm_type: VmType
) -> tuple[EmulatedHost | NativeHost, HostLabel, str | None]:
    """Return the host, its label, and under what its cells are cached (None: they are not)."""
    if place.kind == NATIVE:
        from kvmharness.hosts.native import NativeHost
        from kvmharness.kvm.system import Kvm

        Kvm.open().close()
        return NativeHost(), labels.current(), None
    from kvmharness.hosts.emulated import EmulatedHost

    host = EmulatedHost.prepare(place.kind, place.kernel)
    facts = host.facts
    # The folder is the kernel's in the cache: a release, or the digest of a tree's image.
    parts = [place.kind, vm_type.label, host.kernel.image.parent.name]
    parts += [str(facts[name]) for name in ("kernel_origin", "qemu", "standin")]
    return host, HostLabel(place.kind, str(facts["kernel"])), "-".join(parts)


@dataclass
class _Observation:
    """One host's cells: those cached, then what as many processes as it takes say of the rest."""

    host: EmulatedHost | NativeHost
    label: HostLabel
    identity: str | None
    request: Request
    seen: dict[str, Cell] = field(default_factory=dict)
    current: str | None = None
    noise: list[str] = field(default_factory=list)
    absent: str = ""

    def cells(self) -> tuple[dict[str, Cell], float]:
        """Return a cell for each scenario, and the seconds it took to see what was not cached."""
        stored = None if self.identity is None else Stored(self.identity)
        cells = {} if stored is None or self.request.fresh else stored.read()
        cells = {name: cell for name, cell in cells.items() if name in self.request.scenarios}
        seconds = 0.0
        if self._left(cells):
            try:
                seconds = self._observe(self._left(cells))
            finally:
                # Also what was seen before an interruption.
                if stored is not None:
                    stored.add(self.seen)
        cells |= self.seen
        refused = Cell(SKIP, "it can take the host down; give --destructive to run it here")
        return {name: cells.get(name, refused) for name in self.request.scenarios}, seconds

    def _left(self, cells: Mapping[str, Cell]) -> list[str]:
        """Return what is still to be observed, what can take the kernel down last."""
        anything = self.label.emulated or self.request.destructive
        scenarios = self.request.scenarios
        left = [name for name in scenarios if name not in cells and name not in self.seen]
        harmless = [name for name in left if not scenarios[name].destructive]
        return harmless + [name for name in left if anything and scenarios[name].destructive]

    def _observe(self, ids: list[str]) -> float:
        seconds, crashes = 0.0, 0
        words = f"{self.label.kind}, Linux {self.label.kernel}: {len(ids)} scenarios"
        with progress.step(words) as report:
            while left := [name for name in ids if name not in self.seen]:
                self.current, self.noise = None, []
                before = len(self.seen)
                take = _Lines(self, lambda: report(len(self.seen) / len(ids)))
                run = self._run(left, take)
                seconds += run.seconds
                if self.absent:
                    self.seen |= {name: Cell(SKIP, self.absent) for name in left}
                if all(name in self.seen for name in ids):
                    break
                if self.current is None and len(self.seen) == before:
                    raise HarnessError(
                        f"nothing could be observed on {self.label.words}: {self._why(run)}"
                    )
                crashes += 1
                self._blame(run, left, crashes)
        return seconds

    def _run(self, ids: Sequence[str], take: _Lines) -> HostRun:
        argv = [sys.executable, "-P", "-m", "kvmharness.matrix.observe"]
        argv += [self.request.vm_type.label, *ids]
        options: dict[str, Any] = {}
        if self.label.emulated:
            options["smp"] = min(_SMP, os.cpu_count() or 1)
        top = resources.checkout_dir()
        env = {"PYTHONPATH": str(top)} if top else {}
        return self.host.run(argv, timeout=DEADLINE, env=env, on_output=take, **options)

    def _blame(self, run: HostRun, left: Sequence[str], crashes: int) -> None:
        """Make a cell for the scenario during which the process or the kernel ended."""
        reason = self._why(run)
        tail = run.console_tail.splitlines() or self.noise
        culprit = self.current or next(name for name in left if name not in self.seen)
        result = HANG if run.verdict is Verdict.TIMEOUT else CRASH
        self.seen[culprit] = Cell(
            result, reason, log=tuple(classify(tail)), log_lines=tuple(tail[-_TAIL:])
        )
        if crashes >= _CRASHES or run.verdict is Verdict.TIMEOUT:
            why = f"not tried: {culprit} ended the run ({reason})"
            rest = [name for name in left if name not in self.seen]
            self.seen |= {name: Cell(SKIP, why) for name in rest}

    def _why(self, run: HostRun) -> str:
        if run.verdict is Verdict.FINISHED:
            status = run.status or 0
            how = f"ended with status {status}"
            if status > 128:
                how = f"was killed by {signal.Signals(status - 128).name}"
            last = f": {self.noise[-1]}" if self.noise else ""
            return f"the process {how}{last}"
        return f"{run.verdict}: {run.detail}"


class _Lines:
    """Takes a process's output as it comes: records on stdout, anything else on stderr."""

    def __init__(self, observation: _Observation, moved: Any) -> None:
        self._observation = observation
        self._moved = moved
        self._partial = b""

    def __call__(self, stream: str, data: bytes) -> None:
        if stream != "stdout":
            noise = data.decode("utf-8", "replace").splitlines()
            self._observation.noise += [line for line in noise if line.strip()]
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        observation = self._observation
        try:
            value = json.loads(line)
        except ValueError:
            observation.noise.append(line.decode("utf-8", "replace"))
            return
        if "start" in value:
            observation.current = value["start"]
        elif "absent" in value:
            observation.absent = value["absent"]
        else:
            observation.seen[value["id"]] = Cell.from_json(value)
            observation.current = None
            self._moved()
