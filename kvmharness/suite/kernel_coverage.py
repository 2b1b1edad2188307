# SPDX-License-Identifier: MIT
"""What the suite reaches of KVM's own code, host by host: into a directory, and held to floors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kvmharness import progress
from kvmharness.coverage import code, floors, lcov
from kvmharness.coverage.compiled_lines import module_lines
from kvmharness.coverage.executed import Executed
from kvmharness.coverage.host_coverage import HostCoverage
from kvmharness.coverage.interest import groups
from kvmharness.coverage.lines import Lines
from kvmharness.coverage.measure import Subject
from kvmharness.errors import HarnessError, UsageError
from kvmharness.hosts.covered import LoggingHost, WithKernelCoverage
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.kernels import modulebuild
from kvmharness.kernels.kernels import series_of
from kvmharness.kernels.tdx_build import TdxParts
from kvmharness.labels import HostLabel
from kvmharness.report.output import ReportFile


class KernelCoverage:
    """Measures host after host, and writes what came of each to a directory: JSON, and lcov.

    Raises UsageError where the directory can't be had, or Capstone is not installed.
    """

    def __init__(self, directory: Path) -> None:
        code.check_installed()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--kernel-coverage {directory}: {error.strerror}") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise UsageError(f"--kernel-coverage {directory}: permission denied")
        self._directory = directory
        self._watched: dict[HostLabel, _Watched] = {}
        #: What was told so far.
        self.hosts: list[HostCoverage] = []

    def watch(self, host: EmulatedHost, runs: LoggingHost) -> WithKernelCoverage:
        """Return a host like `runs`, which runs what it is given on `host`, that is measured."""
        subject = Subject(host.modules, groups(), _lines(host))
        executed = Executed(subject.sizes)
        # Of a kernel that was changed or is the user's own, another share is reached.
        self._watched[host.label] = _Watched(subject, executed, _is_packaged(host))
        return WithKernelCoverage(runs, executed)

    @contextmanager
    def telling(self, label: HostLabel, *, whole: bool) -> Iterator[None]:
        """Write at the end of this block what a host's runs in it came to, whatever ends it.

        `whole`: all of its suite is run, so that floors hold, if it comes to its end.
        """
        finished = False
        try:
            yield
            finished = True
        finally:
            watched = self._watched.pop(label, None)
            if watched is not None:
                self._tell(label, watched, held=whole and finished and watched.packaged)

    def show(self, console: Console) -> bool:
        """Print what was reached on each host; return whether it is less than a floor anywhere."""
        for each in self.hosts:
            each.show(console)
        return any(each.fallen for each in self.hosts)

    def _tell(self, label: HostLabel, watched: _Watched, *, held: bool) -> None:
        functions = watched.subject.measure(watched.executed)
        least = floors.floors(label.kind, series_of(label.kernel)) if held else {}
        measured = HostCoverage(label, watched.executed.boots, functions, least)
        self.hosts.append(measured)
        name = f"{label.kind}-{label.kernel}".replace("/", "-").replace(" ", "-")
        written = {f"{name}.json": measured.as_json()}
        if any(each.lines for each in functions):
            written[f"{name}.info"] = lcov.render(functions)
        for path, text in written.items():
            with ReportFile(str(self._directory / path)) as file:
                file.write(text)


def _lines(host: EmulatedHost) -> dict[str, Lines]:
    """Return the source lines of a host's KVM modules, by name, of those that can be had."""
    if host.kernel.tree is not None or host.kernel.label != host.kernel.release:
        progress.note(f"{host.kernel.label}: no source lines; they are a packaged kernel's")
        return {}
    found = {}
    for name, file in host.modules.items():
        sources = [group.source for group in groups() if group.module == name.replace("-", "_")]
        if not sources:
            continue
        tdx = TdxParts.of(modulebuild.standin(host.kind)) if name in host.kind.rebuilt else None
        try:
            lines = module_lines(host.kernel, name, file, list(dict.fromkeys(sources)), tdx)
        except HarnessError as error:
            progress.note(f"no source lines of {name}: {error}")
        else:
            found[name.replace("-", "_")] = lines
    return found


def _is_packaged(host: EmulatedHost) -> bool:
    """Whether the kernel and KVM's modules are a package's, booted as every other is."""
    return host.kernel.tree is None and host.label.kernel == host.kernel.release


@dataclass(frozen=True)
class _Watched:
    subject: Subject
    executed: Executed
    packaged: bool
