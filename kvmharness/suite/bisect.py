# SPDX-License-Identifier: MIT
"""pytest's exit status for git bisect: a test that failed, apart from one that broke or skipped.

pytest's own is 1 for a failed assertion and for a fixture that broke, and 0 for tests that passed
and for those that all skipped. A bisection would name a commit on either.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from kvmharness.exit_status import BISECT_SKIP, FAILED
from kvmharness.suite.fault import is_ours


class Judge:
    """The hooks that count, and set the status in the end."""

    def __init__(self) -> None:
        self._passed = self._failed = self._broke = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Count what became of a phase of a test, as all other hooks leave it."""
        report = yield
        if report.failed:
            broke = call.excinfo is not None and is_ours(call.excinfo.value, report.when or "call")
            self._broke += broke
            self._failed += not broke
        elif report.passed and report.when == "call":
            self._passed += 1
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count what can't be collected: its tests are missing."""
        self._broke += report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Set the session's status; wrong usage and the like stay what they are."""
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        unexplained = session.exitstatus == pytest.ExitCode.TESTS_FAILED and not self._broke
        if self._failed or unexplained:  # what the kernel said between two tests fails no test
            session.exitstatus = FAILED
        elif self._broke or not self._passed:
            session.exitstatus = BISECT_SKIP
