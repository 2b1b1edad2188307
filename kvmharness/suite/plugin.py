# SPDX-License-Identifier: MIT
"""The pytest plugin: fixtures, markers, and a watch over each test that uses them.

It is registered by entry point, in every project that has kvmharness installed, and leaves tests
alone that use neither its fixtures nor its ``requires_`` markers (``--kvmharness-strict`` watches
every test). Loading it needs no KVM and no built binding.

A watched test has a deadline, must leave no fd, shared mapping, thread or child behind, and must
not make the kernel say anything against itself (kernel_log/splats.toml). When it fails, its report
shows the ioctls it made and what the kernel logged meanwhile (hooks.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kvmharness.exit_status import BISECT_VARIABLE
from kvmharness.suite.hooks import SESSION, WATCH, Session

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm
    from kvmharness.kvm.vm import Vm
    from kvmharness.kvm.vmtypes import VmType
    from kvmharness.machine.builder import VmBuilder
    from kvmharness.machine.payload import Payload

_MARKERS = {
    "requires_cap(name, bits=0, vm_type=None)": "skip unless KVM has this capability (KVM_CAP_X) "
    "with all of `bits`, asked of /dev/kvm or of a VM of `vm_type`",
    "requires_vm_type(name)": "skip unless VMs of this type (snp, tdx, ...) can be created",
    "destructive": "can take the host down: runs on emulated hosts, or when asked for",
    "scenario(id)": "the test's id in selections and reports",
    "deadline(seconds)": "the test's own deadline, in seconds, for each of its phases",
    "leaves(*patterns)": "what the kernel may hold on to when the test is over: regular "
    "expressions, searched in what suite/held.py says",
    "expects_log(*patterns)": "what the kernel may say against itself during the test (WARNING f, "
    "taint W): regular expressions, searched in the finding and in the line that was logged",
}


# ------------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def kvm() -> Iterator[Kvm]:
    """/dev/kvm, opened once. Skips, with the reason, where there is none."""
    from kvmharness.kvm.system import Kvm

    with Kvm.open() as opened:
        yield opened


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    """A default VM with nothing in it, closed after the test."""
    with kvm.create_vm() as created:
        yield created


@pytest.fixture
def vm_builder(kvm: Kvm) -> Callable[..., VmBuilder]:
    """A function that gives a VmBuilder: ``vm_builder("snp")``; the default type without."""
    from kvmharness.machine.builder import VmBuilder

    def builder(vm_type: VmType | str = "default") -> VmBuilder:
        return VmBuilder(kvm, vm_type=vm_type)

    return builder


@pytest.fixture
def payload() -> Callable[[str], Payload]:
    """The function that loads a guest payload by name."""
    from kvmharness.machine.payload import load

    return load


@pytest.fixture
def record(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A dict that goes into the test's record as ``details``: whatever JSON can hold."""
    details: dict[str, Any] = request.node.stash[WATCH].details
    return details


@pytest.fixture
def expect_log(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that takes a pattern, as the marker ``expects_log`` does, while the test runs."""
    expect: Callable[[str], None] = request.node.stash[WATCH].expected_log.append
    return expect


@pytest.fixture
def left_by_each(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[], object], int], list[str]]:
    """A function of an action and a number of repeats: what each leaves in the kernel's memory.

    Skips where that can't be seen: it takes a cgroup of one's own, as on an emulated host.
    """
    held = request.config.stash[SESSION].held
    if held is None:
        pytest.skip("what the kernel allocates is counted on an emulated host alone")
    return held.left_by_each


@pytest.fixture
def ioctl_trace(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The trace entries of every ioctl since the test's setup began; it grows with each."""
    entries: list[dict[str, Any]] = request.node.stash[WATCH].ioctls
    return entries


# ------------------------------------------------------------------ options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, all of them beginning with --kvmharness."""
    group = parser.getgroup("kvmharness", "KVM, guest_memfd and confidential VMs")
    group.addoption(
        "--kvmharness-strict",
        action="store_true",
        help="watch every test, not only those that use kvmharness's fixtures or markers",
    )
    group.addoption(
        "--kvmharness-destructive",
        action="store_true",
        help="run tests marked destructive on this host as well",
    )
    group.addoption(
        "--kvmharness-require",
        action="append",
        default=[],
        metavar="WHAT",
        help="fail instead of skipping for want of WHAT: kvm, a VM type or a KVM_CAP_ name",
    )
    group.addoption(
        "--kvmharness-select",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run the tests whose id or node id this means",
    )
    group.addoption(
        "--kvmharness-deadline",
        metavar="SECONDS",
        help="deadline of each phase of a watched test (default: the ini option's; 0: none)",
    )
    group.addoption(
        "--kvmharness-records",
        metavar="FILE",
        help="append one JSON line per test to FILE",
    )
    group.addoption(
        "--kvmharness-done",
        metavar="FILE",
        help="leave out the tests whose node ids are the lines of FILE",
    )
    group.addoption(
        "--kvmharness-allow-log",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a line of the kernel's log that matches fails no test, however grave",
    )
    parser.addini(
        "kvmharness_allow_log", "as --kvmharness-allow-log, a pattern a line", type="linelist"
    )
    parser.addini("kvmharness_strict", "watch every test", type="bool", default=False)
    parser.addini("kvmharness_deadline", "seconds for each phase of a watched test", default="120")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, check the options, start watching."""
    for name, text in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")
    config.stash[SESSION] = Session(config)
    config.pluginmanager.register(config.stash[SESSION], "kvmharness-session")
    # Where records are written, whoever reads them judges.
    if BISECT_VARIABLE in os.environ and config.stash[SESSION].writer is None:
        from kvmharness.suite.bisect import Judge

        config.pluginmanager.register(Judge(), "kvmharness-bisect")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say on which host and kernel this is, and what the results are worth."""
    session = config.stash[SESSION]
    if not session.wanted:
        return None
    return "\n".join([f"kvmharness: {session.label.words}", *session.blind()])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this host can't run, before any fixture of the test is set up."""
    item.config.stash[SESSION].skip_if_impossible()
