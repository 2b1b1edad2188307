# SPDX-License-Identifier: MIT
"""Watching tests: selection before they run, what they need and leave behind, what became of them.

Session holds the plugin's hooks and state for one pytest session; Watch is one test's.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from kvmharness import labels
from kvmharness.errors import MissingCapability, UsageError

if TYPE_CHECKING:
    from kvmharness.kernel_log.classify import Finding
    from kvmharness.kernel_log.log import KernelLine
    from kvmharness.kernel_log.watch import KernelWatch, Said
    from kvmharness.report.records import Cause, Outcome, RecordWriter
    from kvmharness.suite.deadline import Watchdog
    from kvmharness.suite.held import Held, HeldByKernel
    from kvmharness.suite.leaks import Snapshot
    from kvmharness.suite.requirements import HostAnswers

#: How many ioctls a failure's report shows.
LAST_IOCTLS = 40
#: How much captured output a record of a failure keeps, in characters.
_OUTPUT_KEPT = 4000
#: Ioctls of a test that are kept: a failure shows the last of them.
_TRACE_KEPT = 2000

_REQUIRED = "required by --require"
_LOGGED = "the kernel logged: "
_BLIND = (
    "kernel log: this user may not read /dev/kmsg, so what the kernel says against itself is not "
    "seen, its taint apart, and nothing that a contract says of the log is checked"
)
_HOW_TO_ALLOW = (
    "A test says what it expects with @pytest.mark.expects_log(PATTERN); what another driver of "
    "this machine logs is allowed with --allow-log PATTERN (pytest: --kvmharness-allow-log)."
)
_PLUGIN = "kvmharness.suite.plugin"
_KVM_FIXTURES = frozenset({"kvm", "vm", "vm_builder"})


class Watch:
    """One test: what it needs, what it made and left, and what became of it."""

    def __init__(self, item: pytest.Item, strict: bool) -> None:
        self.item = item
        self.id = item.nodeid
        self.details: dict[str, Any] = {}
        self.ioctls: list[dict[str, Any]] = []
        fixtures = _our_fixtures(item)
        self.needs_kvm = bool(fixtures & _KVM_FIXTURES)
        self.traces = self.needs_kvm or "ioctl_trace" in fixtures
        # Marker names such as `destructive` belong to other plugins too, and alone mean nothing.
        marked = any(item.iter_markers("requires_cap")) or any(
            item.iter_markers("requires_vm_type")
        )
        self.on = strict or bool(fixtures) or marked
        #: Whether the plugin itself skipped the test, and for want of which requirement.
        self.skipped_here = False
        self.skipped_for: str | None = None
        self.baseline: Snapshot | None = None
        #: What the kernel may hold on to after it, as patterns of what held.py says.
        self.expected_held = [str(p) for mark in item.iter_markers("leaves") for p in mark.args]
        #: What the kernel held before it, where that can be seen.
        self.held: Held | None = None
        self.kernel_lines: Sequence[KernelLine] = ()
        self.findings: Sequence[Finding] = ()
        #: What the kernel may say against itself during this test, besides what its marker says.
        self.expected_log: list[str] = []
        self.reports: list[pytest.TestReport] = []
        #: Those of them that are not the kernel's fault, each with its reason if it gives one.
        self.ours: dict[pytest.TestReport, str] = {}
        self.timed_out = False

    @property
    def requirements(self) -> frozenset[str]:
        """The names that ``--require`` could name this test by."""
        from kvmharness.kvm.vmtypes import VmType
        from kvmharness.suite.requirements import KVM, parse

        names = {parse(mark.args[0]) for mark in self.item.iter_markers("requires_vm_type")}
        names |= {str(mark.args[0]) for mark in self.item.iter_markers("requires_cap")}
        names |= {t.label for t in VmType if self.id.startswith(f"{t.label}.")}
        if self.needs_kvm or names:
            names.add(KVM)
        return frozenset(names)

    def unexpected(self, found: Sequence[Finding]) -> list[Finding]:
        """Return what of `found` the test does not expect."""
        marked = [str(each) for mark in self.item.iter_markers("expects_log") for each in mark.args]
        patterns = [re.compile(each) for each in (*marked, *self.expected_log)]
        return [each for each in found if not each.is_expected(patterns)]

    @property
    def failed_by_kernel(self) -> bool:
        """Whether a phase of it has failed so far, by the kernel's doing or the test's own."""
        return any(report.failed and report not in self.ours for report in self.reports)

    @property
    def failed(self) -> bool:
        """Whether a phase of it has failed so far."""
        return any(report.failed for report in self.reports)


def _our_fixtures(item: pytest.Item) -> frozenset[str]:
    """Return the names of the plugin's own fixtures that the test uses, directly or not.

    Another project may have a `vm` or `record` of its own; what counts is where it was defined.
    """
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return frozenset()
    return frozenset(
        name
        for name, definitions in info.name2fixturedefs.items()
        if definitions and getattr(definitions[-1].func, "__module__", "") == _PLUGIN
    )


class Session:
    """The plugin's hooks and what it keeps for one pytest session: little, until it is needed."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.label = labels.current()
        self.strict = bool(
            config.getoption("kvmharness_strict") or config.getini("kvmharness_strict")
        )
        self.allow_destructive = bool(config.getoption("kvmharness_destructive"))
        self.deadline = _deadline(config)
        self.required = frozenset(_required(config.getoption("kvmharness_require")))
        self.select: list[str] = config.getoption("kvmharness_select")
        self.done = _done(config.getoption("kvmharness_done"))
        self.writer = _writer(config.getoption("kvmharness_records"))
        #: Whether somebody asked for the plugin, beyond having it installed.
        self.wanted = bool(self.strict or self.writer or self.required or self.select)
        self.current: Watch | None = None
        self._answers: HostAnswers | None = None
        self._kernel: KernelWatch | None = None
        self.allowed_log = _patterns(config)
        #: The test that ran last, if it was watched.
        self._previous: Watch | None = None
        self._late: list[str] = []
        self._watchdog: Watchdog | None = None
        self._held: HeldByKernel | None = None
        self._held_sought = False
        #: What the kernel held after the test that ran last: so the next one begins.
        self._held_last: Held | None = None
        # faulthandler has one timer for the whole process: where pytest uses it, it is taken, and
        # its thread comes and goes with each test.
        self._timer_taken = config.pluginmanager.hasplugin("faulthandler") and (
            float(config.getini("faulthandler_timeout") or 0) > 0
        )
        # An emulated host has its deadline outside, and threads cost it a hundred times as much.
        if self.wanted and self.deadline and not (self._timer_taken or self.label.emulated):
            from kvmharness.suite.deadline import Watchdog

            self._watchdog = Watchdog()  # now, before stderr is captured

    @property
    def answers(self) -> HostAnswers:
        """What the host says of requirements."""
        if self._answers is None:
            from kvmharness.suite.requirements import HostAnswers

            self._answers = HostAnswers()
        return self._answers

    @property
    def kernel(self) -> KernelWatch:
        """The watch over the kernel's log and taint."""
        if self._kernel is None:
            from kvmharness.kernel_log.watch import KernelWatch

            self._kernel = KernelWatch.open(self.allowed_log)
        return self._kernel

    @property
    def held(self) -> HeldByKernel | None:
        """What the kernel holds, for all to see on an emulated host.

        On a machine of one's own others make VMs too, and its cgroups are somebody's.
        """
        if not self._held_sought and self.label.emulated:
            from kvmharness.suite.held import HeldByKernel

            self._held = HeldByKernel.open()
        self._held_sought = True
        return self._held

    def blind(self) -> list[str]:
        """Say in a line what of the kernel can't be seen here; nothing where all can."""
        return [] if self.kernel.sees_log else [_BLIND]

    # -------------------------------------------------------------- collection

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Give each test its watch and its id; leave out what is not selected or done already."""
        for item in items:
            item.stash[WATCH] = Watch(item, self.strict)
        if not self.wanted:
            return
        try:
            _name(items)
            dropped = self._not_selected(items)
            items[:] = [item for item in items if item not in dropped]
            self._check_required(items)
        except (UsageError, LookupError) as error:
            message = str(error.args[0])
            if self.writer is not None:
                self.writer.event("usage", message=message)
            raise pytest.UsageError(message) from None
        dropped |= {item for item in items if item.nodeid in self.done}
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=list(dropped))
        if self.writer is not None:
            tests = [[item.stash[WATCH].id, item.nodeid] for item in items]
            self.writer.event("plan", tests=tests, notes=self.blind())

    def _not_selected(self, items: list[pytest.Item]) -> set[pytest.Item]:
        if not self.select:
            return set()
        from kvmharness.selection import choose

        chosen = choose(self.select, [(item.stash[WATCH].id, item.nodeid) for item in items])
        return {item for item, kept in zip(items, chosen, strict=True) if not kept}

    def _check_required(self, items: list[pytest.Item]) -> None:
        needed = {name for item in items for name in item.stash[WATCH].requirements}
        for name in sorted(self.required - needed):
            raise UsageError(f"--require {name}: no selected test needs it")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write an error for a file that can't be collected: its tests are missing."""
        if report.failed and self.writer is not None:
            text = report.longreprtext
            self._write(
                id=report.nodeid or "collection",
                nodeid=report.nodeid,
                outcome="error",
                reason=f"can't be collected: {_last_line(text)}",
                report=text,
            )

    # -------------------------------------------------------------- running

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch one test from before its setup to after its teardown."""
        watch = item.stash.get(WATCH, None)
        if watch is None or not watch.on:
            return (yield)
        if self.writer is not None:
            own = {"deadline": seconds} if (seconds := _own_deadline(item)) else {}
            self.writer.event("start", id=watch.id, nodeid=item.nodeid, **own)
        start = time.monotonic()
        with ExitStack() as until_end:
            self._begin(watch, until_end)
            try:
                result = yield
            except BaseException as error:
                self._write_ended(watch, error, time.monotonic() - start)
                raise
            finally:
                self.current = None
                self._previous = watch
        if self.writer is not None:
            self._write_record(watch, time.monotonic() - start)
        return result

    def _begin(self, watch: Watch, until_end: ExitStack) -> None:
        from kvmharness.suite import leaks

        # A trace file is opened on import: before the test, or the test would be blamed for it.
        wanted = watch.traces or os.environ.get("KVMHARNESS_TRACE")
        if wanted or "kvmharness.kvm.ioctl" in sys.modules:
            # Without a built binding the test that needs it says so, better than a hook can.
            with suppress(ImportError):
                from kvmharness.kvm.ioctl import recording

                watch.ioctls = until_end.enter_context(recording(_TRACE_KEPT))
        self._end_gap()
        if self.writer is not None or watch.needs_kvm:
            self.kernel.say_begin(watch.id)
        if watch.needs_kvm and self.held is not None:
            watch.held = self._held_last or self.held.snapshot()
        self._held_last = None
        watch.baseline = leaks.snapshot()
        self.current = watch

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Count what a fixture of a wider scope opens as its own: it outlives the test rightly."""
        watch = self.current
        if watch is None or watch.baseline is None or fixturedef.scope == "function":
            return (yield)
        from kvmharness.suite import leaks

        before = leaks.snapshot()
        held = self._held.snapshot() if self._held is not None and watch.held is not None else None
        try:
            return (yield)
        finally:
            watch.baseline |= leaks.snapshot() - before
            if self._held is not None and held is not None and watch.held is not None:
                watch.held += self._held.snapshot() - held

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Set up under the deadline."""
        watch = self.current
        if watch is None:
            return (yield)
        with self._phase(watch, "setup"):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Run the test under its deadline."""
        watch = self.current
        if watch is None:
            return (yield)
        with self._phase(watch, "call"):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Tear down under the deadline; then look for what was left behind."""
        watch = self.current
        if watch is None:
            return (yield)
        try:
            with self._phase(watch, "teardown"):
                yield
        finally:
            self._end_stretch(watch)
        if self._watchdog is not None:
            self._watchdog.stop()
        if not watch.failed_by_kernel:
            _fail_if_logged(watch)
        # A failed test's frames, and all that they hold, live on in its traceback.
        if not watch.failed:
            self._fail_if_leaked(watch)

    @contextmanager
    def _phase(self, watch: Watch, phase: str) -> Iterator[None]:
        from kvmharness.suite.deadline import deadline

        own = _own_deadline(watch.item)
        seconds = own if own is not None and self.deadline else self.deadline

        def passed() -> BaseException:
            watch.timed_out = True
            return pytest.fail.Exception(f"deadline: {phase} took longer than {seconds:g} s")

        if self._watchdog is not None and seconds > 0:
            self._watchdog.cover(seconds)
        try:
            with deadline(seconds, passed):
                yield
        except MissingCapability as error:
            from kvmharness.suite.requirements import of_missing

            watch.skipped_here = True
            watch.skipped_for = of_missing(error)
            raise pytest.skip.Exception(str(error)) from error

    def _fail_if_leaked(self, watch: Watch) -> None:
        from kvmharness.suite import leaks

        assert watch.baseline is not None
        left = leaks.left_since(watch.baseline, foreign_threads=not self._timer_taken)
        if left:
            lines = "\n".join(f"  {line}" for line in left.describe())
            pytest.fail(f"this test leaked {left.counts()}\n{lines}", pytrace=False)
        if self._held is not None and watch.held is not None:
            self._held_last, kept = self._held.left_since(watch.held)
            expected = [re.compile(pattern) for pattern in watch.expected_held]
            unexpected = [
                line
                for line in kept.describe()
                if not any(pattern.search(line) for pattern in expected)
            ]
            if unexpected:
                told = "; ".join(unexpected)
                pytest.fail(f"when the test was over the kernel still held {told}", pytrace=False)

    def _end_stretch(self, watch: Watch) -> None:
        said = self.kernel.take()
        watch.kernel_lines, watch.findings = said.lines, said.findings

    def _end_gap(self) -> None:
        """Look at what the kernel said since the last test: what comes late may be of any before.

        Only where all tests are watched: else it may be one's that is not this plugin's affair.
        """
        said, previous = self.kernel.take(), self._previous
        if self.strict and previous is not None and (found := previous.unexpected(said.findings)):
            self._fail_between(previous, found, said)

    def _fail_between(self, previous: Watch, found: Sequence[Finding], said: Said) -> None:
        reason = f"{_logged(found)} (after the end of {previous.id})"
        self._late.append(reason)
        self._write(
            id=self.label.kind,
            nodeid=f"<after {previous.item.nodeid}>",
            outcome="failed",
            reason=reason,
            kernel_log=tuple(map(str, said.lines)),
        )

    def skip_if_impossible(self) -> None:
        """Skip the current test if this host lacks what its markers ask for."""
        watch = self.current
        if watch is None:
            return
        from kvmharness.suite.requirements import DESTRUCTIVE

        item = watch.item
        if item.get_closest_marker("destructive") and not (
            self.allow_destructive or self.label.emulated
        ):
            watch.skipped_here = True
            watch.skipped_for = DESTRUCTIVE
            pytest.skip("destructive: it could take this host down; ask for it with --destructive")
        for mark in item.iter_markers("requires_vm_type"):
            if reason := self.answers.why_no_vm_type(*mark.args, **mark.kwargs):
                raise MissingCapability(f"VM type {mark.args[0]}", reason)
        for mark in item.iter_markers("requires_cap"):
            if reason := self.answers.why_no_capability(*mark.args, **mark.kwargs):
                raise MissingCapability(mark.args[0], reason)

    # -------------------------------------------------------------- reporting

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Make a required skip a failure; show a failure's ioctls and kernel log."""
        report = yield
        watch = self.current
        if watch is None:
            return report
        if report.skipped and not hasattr(report, "wasxfail"):
            self._judge_skip(watch, report)
        xfailed = report.skipped and hasattr(report, "wasxfail")
        if report.when == "teardown" and xfailed and watch.unexpected(watch.findings):
            # A test that is expected to fail is not expected to find a bug in the kernel.
            report.outcome = "failed"
        if report.when != "teardown":  # whose end is the end of the stretch
            watch.kernel_lines = tuple(self.kernel.lines())
        if report.failed:
            if call.excinfo is not None:
                from kvmharness.suite.fault import is_ours, own_words

                if is_ours(call.excinfo.value, call.when):
                    watch.ours[report] = own_words(call.excinfo.value)
            if watch.ioctls:
                shown = min(LAST_IOCTLS, len(watch.ioctls))
                title = f"ioctls (the last {shown} of {len(watch.ioctls)})"
                report.sections.append((title, "\n".join(_last_ioctls(watch))))
            if watch.kernel_lines:
                report.sections.append(("kernel log", "\n".join(map(str, watch.kernel_lines))))
        watch.reports.append(report)
        return report

    def _judge_skip(self, watch: Watch, report: pytest.TestReport) -> None:
        from kvmharness.suite.requirements import KVM

        reason = _skip_reason(report)
        # Without KVM there is nothing of what the test needs; a skip of the test's own making says
        # nothing of what it lacks. Both are then about all that the test is known to need.
        known = watch.skipped_for not in (None, KVM)
        wanted = {watch.skipped_for} if known else {watch.skipped_for, *watch.requirements}
        if missing := sorted(self.required & wanted):
            report.outcome = "failed"
            report.longrepr = f"{_REQUIRED} {missing[0]}, but skipped: {reason}"
        elif watch.skipped_here:
            # Where the test stands, not where the plugin skipped it.
            path, line, _ = watch.item.location
            report.longrepr = (path, (line or 0) + 1, f"Skipped: {reason}")

    def _write_record(self, watch: Watch, seconds: float) -> None:
        outcome, cause, reason, text = _verdict(watch)
        failed = outcome in ("failed", "error")
        keep_log = failed or watch.findings
        if failed and _LOGGED not in reason and (found := watch.unexpected(watch.findings)):
            reason += f"; {_logged(found)}"
        requirement = watch.skipped_for if outcome == "skipped" else None
        self._write(
            id=watch.id,
            nodeid=watch.item.nodeid,
            outcome=outcome,
            reason=reason,
            cause=cause,
            seconds=round(seconds, 6),
            requirement=requirement,
            details=watch.details,
            report=text,
            ioctls=tuple(_last_ioctls(watch)) if failed else (),
            kernel_log=tuple(map(str, watch.kernel_lines)) if keep_log else (),
        )

    def _write_ended(self, watch: Watch, error: BaseException, seconds: float) -> None:
        """Write the record of a test in which the session ended, as by pytest.exit."""
        said = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
        self._write(
            id=watch.id,
            nodeid=watch.item.nodeid,
            outcome="error",
            reason=f"the session ended in this test: {said}",
            seconds=round(seconds, 6),
            details=watch.details,
        )

    def _write(self, **values: Any) -> None:
        from kvmharness.report.records import Record

        if self.writer is not None:
            label = self.label
            values |= {"host": label.kind, "kernel": label.kernel, "emulated": label.emulated}
            self.writer.record(Record(**values))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Look at the kernel's log a last time; say that the session came to its end."""
        if self._previous is not None:
            self._end_gap()
        if self._late and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.writer is not None:
            self.writer.event("end", exitstatus=int(exitstatus))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what fails the session and no test."""
        if self._late:
            terminalreporter.section("kernel log")
            for reason in self._late:
                terminalreporter.line(reason)

    def pytest_unconfigure(self) -> None:
        """Close what the session holds."""
        if self._kernel is not None:
            self._kernel.close()
        if self.writer is not None:
            self.writer.close()
        if self._watchdog is not None:
            self._watchdog.close()


SESSION = pytest.StashKey[Session]()
WATCH = pytest.StashKey[Watch]()


# ------------------------------------------------------------------ options


def _deadline(config: pytest.Config) -> float:
    given = config.getoption("kvmharness_deadline")
    text = config.getini("kvmharness_deadline") if given is None else given
    try:
        return float(text)
    except ValueError:
        raise pytest.UsageError(f"--kvmharness-deadline: not a number: {text}") from None


def _patterns(config: pytest.Config) -> list[re.Pattern[str]]:
    given = [*config.getini("kvmharness_allow_log"), *config.getoption("kvmharness_allow_log")]
    try:
        return [re.compile(pattern) for pattern in given]
    except re.error as error:
        raise pytest.UsageError(f"--kvmharness-allow-log {error}: {error.pattern!r}") from None


def _required(names: list[str]) -> Iterator[str]:
    for name in names:
        from kvmharness.suite.requirements import parse

        try:
            yield parse(name)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None


def _done(path: str | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        with open(path, encoding="utf-8") as file:
            return frozenset(file.read().splitlines())
    except OSError as error:
        raise pytest.UsageError(f"can't read {path}: {error.strerror}") from None


def _writer(path: str | None) -> RecordWriter | None:
    if path is None:
        return None
    from kvmharness.report.records import RecordWriter

    try:
        return RecordWriter(path)
    except OSError as error:
        raise pytest.UsageError(f"can't write records to {path}: {error.strerror}") from None


# ------------------------------------------------------------------ one test


def _name(items: list[pytest.Item]) -> None:
    """Give each test its id. A scenario that several parameters share is told apart by them.

    UsageError if two tests have one id: a selection or a report could not tell them apart.
    """
    from kvmharness.selection import default_id

    times: dict[str, int] = {}
    tests: dict[str, str] = {}
    for item in items:
        mark = item.get_closest_marker("scenario")
        watch = item.stash[WATCH]
        watch.id = str(mark.args[0]) if mark and mark.args else default_id(item.nodeid)
        times[watch.id] = times.get(watch.id, 0) + 1
        test = item.nodeid.partition("[")[0]
        if tests.setdefault(watch.id, test) != test:
            raise UsageError(f"two tests have the id {watch.id}: {tests[watch.id]} and {test}")
    for item in items:
        watch = item.stash[WATCH]
        if times[watch.id] > 1 and "[" in item.nodeid:
            watch.id += item.nodeid[item.nodeid.index("[") :]


def _own_deadline(item: pytest.Item) -> float | None:
    """Return the deadline that the test asks for itself, in seconds for each phase."""
    mark = item.get_closest_marker("deadline")
    return float(mark.args[0]) if mark and mark.args else None


def _fail_if_logged(watch: Watch) -> None:
    if found := watch.unexpected(watch.findings):
        lines = "\n".join(f"  {each.line}" for each in found)
        pytest.fail(f"{_logged(found)}\n{lines}\n{_HOW_TO_ALLOW}", pytrace=False)


def _logged(found: Sequence[Finding]) -> str:
    return _LOGGED + "; ".join(dict.fromkeys(each.text for each in found))


def _last_ioctls(watch: Watch) -> list[str]:
    from kvmharness.report.trace_text import lines

    return lines(watch.ioctls, last=LAST_IOCTLS)


def _skip_reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _verdict(watch: Watch) -> tuple[Outcome, Cause, str, str]:
    """Return the outcome, its cause and reason in a sentence, and a failure's whole text."""
    failures = [report for report in watch.reports if report.failed]
    if failures:
        text = "\n\n".join(map(_failure_text, failures))
        cause: Cause = "timeout" if watch.timed_out else ""
        # What the kernel did counts, whatever else went wrong in the same test.
        of_kernel = [report for report in failures if report not in watch.ours]
        if of_kernel:
            return "failed", cause, _failure_reason(of_kernel[0]), text
        reason = watch.ours[failures[0]] or _failure_reason(failures[0])
        return "error", "", reason, text
    for report in watch.reports:
        if report.skipped and hasattr(report, "wasxfail"):
            return "skipped", "expected", f"expected failure: {report.wasxfail}", ""
        if report.skipped:
            return "skipped", "", _skip_reason(report), ""
    if not any(report.when == "call" for report in watch.reports):
        return "error", "not-run", "not run: pytest was told to set up only", ""
    return "passed", "", "", ""


def _failure_reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    first = next((line for line in text.splitlines() if line.strip()), "failed")
    first = first.strip().removeprefix("Failed: ")
    own = report.when == "call" or first.startswith((_REQUIRED, _LOGGED))
    return first if own else f"{first} (in {report.when})"


def _failure_text(report: pytest.TestReport) -> str:
    parts = [report.longreprtext]
    for name, text in (("output", report.capstdout), ("errors", report.capstderr)):
        if text:
            parts.append(f"--- captured {name}\n{text[-_OUTPUT_KEPT:]}")
    return "\n".join(parts)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E").strip() if lines else "no reason given"
