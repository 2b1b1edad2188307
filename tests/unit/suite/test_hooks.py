# SPDX-License-Identifier: MIT
"""The pytest plugin as other projects meet it: what it fails, skips, shows, and leaves alone.

The tests below run inside a pytest of their own, once; each case reads what became of its test.
None of them opens /dev/kvm: ioctls are issued on /dev/null, which refuses them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import ANY

import pytest

from kvmharness.report.records import Record, parse

# In place of the kernel's log and taint: the machine's own are not for tests of the plugin.
KERNEL = """
import os
import pytest
from kvmharness.kernel_log import taint, watch
from kvmharness.kernel_log.log import KernelLine

class Kernel:
    tainted = 0

    def __init__(self):
        self.coming = []

    def says(self, text, level=6):
        self.coming.append(KernelLine(level, 1.0, text))

    def new_lines(self):
        lines, self.coming = self.coming, []
        return lines

    def close(self):
        pass

KERNEL = Kernel()
taint.read = lambda: KERNEL.tainted
readable = "NO_LOG" not in os.environ
watch.KernelLog.open = classmethod(lambda cls: KERNEL if readable else None)

@pytest.fixture
def kernel():
    return KERNEL
"""

PROJECT = """
import mmap, os, subprocess, sys, threading, time, gc
import pytest
from kvmharness.errors import MissingCapability

kept = []

def test_clean():
    with open("/dev/null"), mmap.mmap(-1, 4096):
        subprocess.run(["true"], check=True)

def test_leaks_fd():
    kept.append(os.open("/dev/zero", os.O_RDONLY))

def test_leaks_mapping():
    kept.append(mmap.mmap(-1, 8192))

def test_leaks_thread():
    thread = threading.Thread(target=time.sleep, args=(60,), daemon=True, name="straggler")
    thread.start()

def test_leaks_child():
    kept.append(subprocess.Popen(["sleep", "5"]))

@pytest.fixture
def leaking():
    yield
    kept.append(os.open("/dev/full", os.O_RDONLY))

def test_leaks_in_teardown(leaking):
    pass

def test_failing_is_not_accused_of_what_its_traceback_holds():
    file = open("/dev/null")
    assert file.closed, "this is why"

@pytest.fixture(scope="module")
def module_wide():
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.close(fd)

def test_first_user_of_a_module_fixture(module_wide):
    pass

def test_second_user_of_a_module_fixture(module_wide):
    pass

def test_capture_is_not_a_leak(capfd, tmp_path, caplog):
    os.write(1, b"x")
    print("y")

def ioctl(fd):
    from kvmharness.kvm import ioctl
    return ioctl.call(fd, "KVM_CHECK_EXTENSION", 234)

def test_shows_ioctls(ioctl_trace):
    with open("/dev/null") as null:
        for _ in range(50):
            ioctl(null.fileno())
        assert len(ioctl_trace) == 50
        assert ioctl_trace[-1]["errno"] == "EOK", "not what the kernel said"

def test_passing_shows_none(ioctl_trace):
    with open("/dev/null") as null:
        ioctl(null.fileno())

def test_records(record):
    record["digest"] = "abc"
    record["path"] = sys.path and __import__("pathlib").Path("/x")

@pytest.mark.deadline(0.2)
def test_waits_for_ever():
    threading.Event().wait()

@pytest.fixture
def slow():
    time.sleep(60)

@pytest.mark.deadline(0.2)
def test_waits_in_setup(slow):
    pass

@pytest.mark.destructive
def test_destroys():
    pass

def test_lacks():
    raise MissingCapability("KVM_CAP_X", "this kernel is too old")

@pytest.mark.scenario("snp.source.null")
def test_named():
    pass

@pytest.mark.scenario("snp.source.both")
@pytest.mark.parametrize("way", ["up", "down"])
def test_named_twice(way):
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    assert False

@pytest.mark.xfail(reason="known", strict=True)
def test_unexpectedly_passes():
    pass

@pytest.mark.skip(reason="not now")
def test_skipped():
    pass
"""


@dataclass
class Ran:
    """What a pytest run said and recorded."""

    status: int
    output: str
    records: dict[str, Record]
    events: list[dict[str, object]]

    def __getitem__(self, name: str) -> Record:
        return self.records[name]


def run_pytest(directory: Path, source: str, *options: str, **environment: str) -> Ran:
    (directory / "test_it.py").write_text(source)
    (directory / "conftest.py").write_text(KERNEL)
    records = directory / "records"
    plugin = "kvmharness.suite.plugin"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", plugin, "-p", "no:cacheprovider", "-rA"),
            *("-c", "/dev/null", f"--rootdir={directory}", f"--kvmharness-records={records}"),
            *(*options, str(directory)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "KVMHARNESS"))},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **environment,
        },
    )
    read = [parse(line) for line in records.read_bytes().splitlines()] if records.exists() else []
    return Ran(
        done.returncode,
        done.stdout + done.stderr,
        {entry.nodeid.partition("::")[2]: entry for entry in read if isinstance(entry, Record)},
        [entry for entry in read if isinstance(entry, dict)],
    )


SPLATS = """
import pytest

def test_quiet(kernel):
    kernel.says("kvm: hello")

def test_warned(kernel):
    kernel.says("WARNING: virt/kvm/guest_memfd.c:1 at kvm_gmem_f+0x1/0x2 [kvm], CPU#0: x/1", 4)
    kernel.says("Call Trace:", 4)
    kernel.tainted |= 1 << 9

def test_grave(kernel):
    kernel.says("kvm_amd: something new", 3)

def test_allowed(kernel):
    kernel.says("usb 1-1: device descriptor read/64, error -71", 3)

def test_tainted(kernel):
    kernel.tainted |= 1 << 5

@pytest.mark.expects_log("WARNING kvm_gmem_.*")
def test_expects(kernel):
    kernel.says("WARNING: virt/kvm/guest_memfd.c:1 at kvm_gmem_f+0x1/0x2 [kvm], CPU#0: x/1", 4)

@pytest.mark.expects_log("WARNING kvm_gmem_.*")
def test_expects_something_else(kernel):
    kernel.says("WARNING: virt/kvm/guest_memfd.c:1 at kvm_vm_f+0x1/0x2 [kvm], CPU#0: x/1", 4)

def test_expects_as_it_runs(kernel, expect_log):
    expect_log("BUG: xy")
    kernel.says("BUG: xyz")

def test_skipped(kernel):
    kernel.says("BUG: skipped")
    pytest.skip("for some reason")

@pytest.mark.xfail(reason="known")
def test_expected_to_fail(kernel):
    kernel.says("BUG: xfail")
    assert False

@pytest.fixture
def breaking(kernel):
    yield
    kernel.says("BUG: torn down")

def test_in_teardown(breaking):
    pass

def test_fails_by_itself(kernel):
    kernel.says("BUG: besides")
    assert False, "this is why"

def test_is_an_error_by_itself(kernel):
    from kvmharness.errors import NotTheKernel
    kernel.says("BUG: as well")
    raise NotTheKernel("the test is wrong")

def test_last(request, kernel):
    # After all of this test's own, as an RCU callback might be.
    hook = request.config.stash[__import__("kvmharness.suite.hooks", fromlist=["SESSION"]).SESSION]
    write = hook._write_record
    def written(*args):
        write(*args)
        kernel.says("BUG: too late")
    hook._write_record = written
"""


@pytest.fixture(scope="module")
def splats(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    options = ("--kvmharness-strict", "--kvmharness-allow-log=^usb ")
    return run_pytest(tmp_path_factory.mktemp("splats"), SPLATS, *options)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_quiet", ""),
        ("test_warned", "the kernel logged: WARNING kvm_gmem_f"),
        ("test_grave", "the kernel logged: level 3: kvm_amd: something new"),
        ("test_allowed", ""),
        ("test_tainted", "the kernel logged: taint B"),
        ("test_expects", ""),
        ("test_expects_something_else", "the kernel logged: WARNING kvm_vm_f"),
        ("test_expects_as_it_runs", ""),
        ("test_skipped", "the kernel logged: BUG skipped"),
        ("test_expected_to_fail", "the kernel logged: BUG xfail"),
        ("test_in_teardown", "the kernel logged: BUG torn down"),
        ("test_fails_by_itself", "AssertionError: this is why; the kernel logged: BUG besides"),
        ("test_is_an_error_by_itself", "the kernel logged: BUG as well"),
    ],
)
def test_what_the_kernel_says_against_itself_fails_the_test(
    splats: Ran, name: str, reason: str
) -> None:
    record = splats[name]
    assert (record.outcome, record.reason.split("\n")[0]) == (
        "failed" if reason else "passed",
        reason,
    )


def test_the_record_has_what_was_logged(splats: Ran) -> None:
    assert [line.split("] ")[1] for line in splats["test_warned"].kernel_log[1:]] == ["Call Trace:"]
    assert "kvm_gmem_f" in splats["test_expects"].kernel_log[0]
    assert splats["test_fails_by_itself"].kernel_log
    assert splats["test_quiet"].kernel_log == ()


def test_what_comes_after_the_end_of_a_test_fails_the_session(tmp_path: Path) -> None:
    last = "import pytest" + SPLATS[SPLATS.index("\ndef test_last") :]
    ran = run_pytest(tmp_path, last, "--kvmharness-strict")
    assert ran["test_last"].outcome == "passed"
    (late,) = [name for name in ran.records if name != "test_last"]
    assert ran[late].outcome == "failed"
    reason = "the kernel logged: BUG too late (after the end of it.last)"
    assert ran[late].reason == reason
    assert ran.status == 1
    assert reason in ran.output
    assert ran.events[-1] == {"event": "end", "exitstatus": 1}


def test_a_log_that_can_not_be_read_is_said_once(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, SPLATS, "--kvmharness-strict", NO_LOG="1")
    assert ran.output.count("may not read /dev/kmsg") == 1
    (plan,) = [event for event in ran.events if event["event"] == "plan"]
    assert "may not read /dev/kmsg" in str(plan["notes"])
    assert ran["test_grave"].outcome == "passed"
    assert ran["test_tainted"].reason == "the kernel logged: taint B"


def test_a_pattern_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, SPLATS, "--kvmharness-allow-log=(")
    assert ran.status == 4
    assert "--kvmharness-allow-log" in ran.output


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_pytest(tmp_path_factory.mktemp("project"), PROJECT, "--kvmharness-strict")


@pytest.mark.parametrize(
    "name",
    [
        "test_clean",
        "test_first_user_of_a_module_fixture",
        "test_second_user_of_a_module_fixture",
        "test_capture_is_not_a_leak",
        "test_passing_shows_none",
        "test_records",
        "test_named",
    ],
)
def test_passes(ran: Ran, name: str) -> None:
    assert (ran[name].outcome, ran[name].reason) == ("passed", "")
    assert ran[name].seconds > 0


@pytest.mark.parametrize(
    ("name", "counts", "what"),
    [
        ("test_leaks_fd", "1 fd", ": /dev/zero"),
        ("test_leaks_mapping", "1 mapping", "(8192 bytes): /dev/zero (deleted)"),
        ("test_leaks_thread", "1 thread", ": straggler"),
        ("test_leaks_child", "1 child process", ": sleep 5 (sleeping)"),
        ("test_leaks_in_teardown", "1 fd", ": /dev/full"),
    ],
)
def test_a_leak_fails_the_test_that_leaked(ran: Ran, name: str, counts: str, what: str) -> None:
    assert ran[name].outcome == "failed"
    assert ran[name].reason == f"this test leaked {counts} (in teardown)"
    assert what in ran[name].report
    assert f"_ ERROR at teardown of {name} _" in ran.output


def test_a_failure_is_about_its_own_reason(ran: Ran) -> None:
    record = ran["test_failing_is_not_accused_of_what_its_traceback_holds"]
    assert record.reason == "AssertionError: this is why"
    assert "leaked" not in record.report


def test_a_failure_shows_the_last_ioctls(ran: Ran) -> None:
    record = ran["test_shows_ioctls"]
    assert record.ioctls[0] == "... 10 earlier calls"
    assert record.ioctls[1].endswith("KVM_CHECK_EXTENSION 0xea = ENOTTY   (x 40)")
    assert "- ioctls (the last 40 of 50) -" in ran.output
    assert record.ioctls[1] in ran.output


def test_a_passing_test_keeps_no_ioctls(ran: Ran) -> None:
    assert ran["test_passing_shows_none"].ioctls == ()


def test_details_are_recorded(ran: Ran) -> None:
    assert ran["test_records"].details == {"digest": "abc", "path": "/x"}


@pytest.mark.parametrize(
    ("name", "phase"), [("test_waits_for_ever", "call"), ("test_waits_in_setup", "setup")]
)
def test_a_deadline_fails_the_test_where_it_waits(ran: Ran, name: str, phase: str) -> None:
    record = ran[name]
    assert (record.outcome, record.cause) == ("failed", "timeout")
    assert record.reason.startswith(f"deadline: {phase} took longer than 0.2 s")
    assert "wait()" in record.report or "time.sleep(60)" in record.report


def test_a_destructive_test_is_skipped_with_what_to_do(ran: Ran) -> None:
    record = ran["test_destroys"]
    assert (record.outcome, record.requirement) == ("skipped", "destructive")
    assert "--destructive" in record.reason


def test_a_missing_capability_is_a_skip_with_its_reason(ran: Ran) -> None:
    record = ran["test_lacks"]
    assert (record.outcome, record.requirement) == ("skipped", "KVM_CAP_X")
    assert record.reason == "KVM_CAP_X: this kernel is too old"
    # Where the test stands, not where the plugin raised.
    assert "test_it.py:" in next(line for line in ran.output.splitlines() if "too old" in line)


def test_ids_are_the_scenario_s_and_told_apart(ran: Ran) -> None:
    assert ran["test_named"].id == "snp.source.null"
    assert ran["test_named_twice[up]"].id == "snp.source.both[up]"
    assert ran["test_named_twice[down]"].id == "snp.source.both[down]"
    assert ran["test_clean"].id == "it.clean"


def test_expected_failures_are_not_passes(ran: Ran) -> None:
    record = ran["test_expected_to_fail"]
    assert (record.outcome, record.cause) == ("skipped", "expected")
    assert record.reason == "expected failure: known"
    assert ran["test_unexpectedly_passes"].outcome == "failed"
    assert ran["test_skipped"].reason == "not now"


def test_every_record_says_where_it_was_seen(ran: Ran) -> None:
    assert {record.kernel for record in ran.records.values()} == {os.uname().release}
    assert len({(record.host, record.emulated) for record in ran.records.values()}) == 1


def test_events_tell_the_plan_each_start_and_the_end(ran: Ran) -> None:
    assert ran.events[0]["event"] == "plan"
    assert len([e for e in ran.events if e["event"] == "start"]) == len(ran.records)
    assert ran.events[-1] == {"event": "end", "exitstatus": 1}


def test_the_header_says_which_host_this_is(ran: Ran) -> None:
    header = next(line for line in ran.output.splitlines() if line.startswith("kvmharness: "))
    assert os.uname().release in header
    assert header.endswith(("not emulated", "emulated, not a hardware result"))


# ------------------------------------------------------------------ options


def test_destructive_tests_run_when_asked_for(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.destructive\ndef test_destroys(): pass\n"
    ran = run_pytest(tmp_path, source, "--kvmharness-strict", "--kvmharness-destructive")
    assert ran["test_destroys"].outcome == "passed"


def test_destructive_tests_run_on_an_emulated_host(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.destructive\ndef test_destroys(): pass\n"
    ran = run_pytest(tmp_path, source, "--kvmharness-strict", KVMHARNESS_HOST="emulated-snp")
    assert ran["test_destroys"].outcome == "passed"
    assert ran["test_destroys"].emulated
    assert "emulated-snp host" in ran.output
    assert "not a hardware result" in ran.output


REQUIRING = """
import pytest
from kvmharness.errors import MissingCapability

@pytest.mark.scenario("snp.one")
def test_skips_itself(): pytest.skip("no /dev/sev")

@pytest.mark.scenario("snp.two")
def test_lacks_a_capability(): raise MissingCapability("KVM_CAP_MEMORY_ATTRIBUTES", "it is 0")

@pytest.mark.scenario("snp.three")
def test_lacks_kvm(): raise MissingCapability("/dev/kvm", "not there")

@pytest.mark.scenario("snp.four")
@pytest.mark.destructive
def test_destroys(): pass

@pytest.fixture
def secure_processor(): pytest.skip("no /dev/sev")

@pytest.mark.scenario("snp.five")
def test_skips_in_setup(secure_processor): pass

def test_other(): pytest.skip("of no interest")
"""


def test_a_required_skip_is_a_failure(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, REQUIRING, "--kvmharness-strict", "--kvmharness-require=SNP")
    outcomes = {name: record.outcome for name, record in ran.records.items()}
    assert outcomes == {
        "test_skips_itself": "failed",
        "test_lacks_a_capability": "skipped",
        "test_lacks_kvm": "failed",
        "test_destroys": "skipped",
        "test_skips_in_setup": "failed",
        "test_other": "skipped",
    }
    reason = "required by --require snp, but skipped: no /dev/sev"
    assert ran["test_skips_itself"].reason == reason
    assert ran.status == 1


def test_a_requirement_nothing_needs_is_wrong_usage(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, REQUIRING, "--kvmharness-require=tdx")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert ran.events == [
        {"event": "usage", "message": "--require tdx: no selected test needs it"},
        {"event": "end", "exitstatus": 4},
    ]


def test_only_what_is_selected_runs_and_not_what_is_done(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.write_text("test_it.py::test_lacks_kvm\n")
    ran = run_pytest(tmp_path, REQUIRING, "--kvmharness-select=snp.t*", f"--kvmharness-done={done}")
    plan = [["snp.two", "test_it.py::test_lacks_a_capability"]]
    assert ran.events[0] == {"event": "plan", "tests": plan, "notes": ANY}
    assert "4 deselected" not in ran.output
    assert "5 deselected" in ran.output


TWICE = """
import pytest

@pytest.mark.scenario("gmem.bind.flags")
def test_one(kvm): pass

@pytest.mark.scenario("gmem.bind.flags")
@pytest.mark.parametrize("bit", [0, 1])
def test_other(kvm, bit): pass
"""


def test_an_id_of_two_tests_is_wrong_usage(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, TWICE, "--kvmharness-strict")
    event, _end = ran.events
    assert event["event"] == "usage"
    message = str(event["message"])
    assert message.startswith("two tests have the id gmem.bind.flags: ")
    assert message.endswith("::test_other")


def test_an_unknown_selection_is_wrong_usage(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, REQUIRING, "--kvmharness-select=snp.fuor")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "no test is called 'snp.fuor'; close to it: snp.four" in ran.output


def test_a_file_that_can_not_be_collected_is_an_error(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, "import there_is_no_such_module\n", "--kvmharness-strict")
    (record,) = ran.records.values()
    assert record.outcome == "error"
    assert record.reason.startswith("can't be collected: ModuleNotFoundError")
    assert "there_is_no_such_module" in record.report


# ------------------------------------------------------------------ whose fault it is

FAULTS = """
import pytest
from kvmharness.errors import HarnessError, KernelFault, NotTheKernel, RunTimeout

def test_differs(): raise NotTheKernel("the firmware answers otherwise:\\n  send us this")

def test_harness(): raise HarnessError("no such payload")

def test_kernel_fault(): raise KernelFault("0 bytes done, 4096 left")

def test_hangs(): raise RunTimeout("the guest never left")

def test_bug_in_the_test(): {}["x"]

@pytest.fixture
def broken(): raise KeyError("a name that a fixture did not find")

@pytest.fixture
def refused(): raise OSError(22, "EINVAL")

@pytest.fixture
def checks(): assert 1 == 2

@pytest.fixture
def breaks_later():
    yield
    raise KeyError("in teardown")

@pytest.fixture
def leaks():
    yield
    assert 0, "pages were left"

def test_fixture_breaks(broken): pass
def test_kernel_refuses_a_fixture(refused): pass
def test_fixture_checks(checks): pass
def test_teardown_breaks(breaks_later): pass
def test_kernel_leaks_too(leaks): raise NotTheKernel("differs")
def test_no_such_fixture(there_is_none): pass
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_pytest(tmp_path_factory.mktemp("faults"), FAULTS, "--kvmharness-strict")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("test_differs", "error"),
        ("test_harness", "error"),
        ("test_kernel_fault", "failed"),
        ("test_hangs", "failed"),
        ("test_bug_in_the_test", "failed"),
        ("test_fixture_breaks", "error"),
        ("test_kernel_refuses_a_fixture", "failed"),
        ("test_fixture_checks", "failed"),
        ("test_teardown_breaks", "error"),
        ("test_no_such_fixture", "error"),
    ],
)
def test_whose_fault_it_is(faults: Ran, name: str, outcome: str) -> None:
    assert faults[name].outcome == outcome


def test_an_error_says_its_reason_whole(faults: Ran) -> None:
    record = faults["test_differs"]
    assert record.reason == "the firmware answers otherwise: send us this"
    assert "test_it.py" in record.report
    assert faults["test_fixture_breaks"].reason.startswith("KeyError: ")


def test_what_the_kernel_did_counts_beside_an_error(faults: Ran) -> None:
    record = faults["test_kernel_leaks_too"]
    assert record.outcome == "failed"
    assert record.reason.startswith("AssertionError: pages were left")
    assert "NotTheKernel: differs" in record.report


@pytest.mark.parametrize(
    ("ends", "said"),
    [("pytest.exit('enough')", "Exit: enough"), ("raise KeyboardInterrupt", "KeyboardInterrupt")],
)
def test_a_test_in_which_the_session_ends_has_a_record(
    tmp_path: Path, ends: str, said: str
) -> None:
    source = f"import pytest\ndef test_ends(): {ends}\ndef test_after(): pass\n"
    ran = run_pytest(tmp_path, source, "--kvmharness-strict")
    assert list(ran.records) == ["test_ends"]
    assert ran["test_ends"].outcome == "error"
    assert ran["test_ends"].reason == f"the session ended in this test: {said}"
    assert ran.events[-1] == {"event": "end", "exitstatus": 2}


def test_a_test_that_was_only_set_up_did_not_run(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, "def test_a(): pass\n", "--kvmharness-strict", "--setup-only")
    assert (ran["test_a"].outcome, ran["test_a"].ran) == ("error", False)


# ------------------------------------------------------------------ other people's projects

OTHERS = """
import os, sys, time
import pytest

@pytest.fixture
def kvm(): return "their own"

@pytest.fixture
def record(): return []

def test_leaks_and_is_left_alone(kvm, record):
    os.open("/dev/zero", os.O_RDONLY)
    assert (kvm, record) == ("their own", [])

@pytest.mark.destructive
def test_their_destructive(): pass

def test_nothing_is_loaded():
    loaded = [name for name in sys.modules if name.startswith("kvmharness")]
    assert "kvmharness.kvm.ioctl" not in loaded
    assert "kvmharness.suite.leaks" not in loaded
    assert "kvmharness.kvm.ffi" not in loaded
    assert "psutil" not in sys.modules
"""


def test_a_project_that_does_not_use_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(OTHERS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "kvmharness.suite.plugin", "-q", "-rA"),
            *("-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "3 passed" in done.stdout, done.stdout
    assert "kvmharness:" not in done.stdout  # no header either


def test_a_broken_binding_does_not_break_other_tests(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['kvmharness._kvm'] = None\n"
    )
    source = "def test_unit(): pass\ndef test_trace(ioctl_trace): pass\ndef test_kvm(kvm): pass\n"
    ran = run_pytest(tmp_path, source, "--kvmharness-strict", PYTHONPATH=_with(tmp_path))
    assert ran["test_unit"].outcome == "passed"
    assert ran["test_trace"].outcome == "passed"
    assert ran["test_kvm"].outcome == "error"
    assert "kvmharness._kvm" in ran["test_kvm"].reason


def _with(directory: Path) -> str:
    return os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])


# ------------------------------------------------------------------ what the kernel holds

HELD = """
import contextlib
import pytest
from kvmharness.kvm.system import Kvm
from kvmharness.suite import held
from kvmharness.suite.held import Held, HeldByKernel

VMS = set()

class Seen(HeldByKernel):
    def __init__(self): pass
    def snapshot(self): return Held(frozenset(VMS), {"pages": len(VMS)})

held._GRACE = 0.01
Kvm.open = contextlib.nullcontext
HeldByKernel.open = classmethod(lambda cls: Seen())

@pytest.fixture
def vm():
    yield
    VMS.discard("1-9")

@pytest.fixture(scope="module")
def wide():
    VMS.add("1-2")

def test_leaves_a_vm(ioctl_trace, kvm): VMS.add("1-4")
@pytest.mark.leaves("VM 1-3", "pages")
def test_leaves_what_it_says(kvm): VMS.add("1-3")
def test_after_it(kvm): pass
def test_gives_it_back_late(vm, kvm): VMS.add("1-9")
def test_with_a_wider_fixture(kvm, wide): pass
def test_needs_no_kvm(): VMS.add("1-5")
def test_fails_by_itself(kvm):
    VMS.add("1-6")
    assert 0, "its own"
"""


def test_what_the_kernel_still_holds_fails_the_test_that_left_it(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, HELD, "--kvmharness-strict", KVMHARNESS_HOST="emulated-snp")
    outcomes = {name: record.outcome for name, record in ran.records.items()}
    assert outcomes == {
        "test_leaves_a_vm": "failed",
        "test_leaves_what_it_says": "passed",
        "test_after_it": "passed",
        "test_gives_it_back_late": "passed",
        "test_with_a_wider_fixture": "passed",
        "test_needs_no_kvm": "passed",
        "test_fails_by_itself": "failed",
    }
    assert ran["test_leaves_a_vm"].reason == (
        "when the test was over the kernel still held VM 1-4 (process and fd that made it); 1 pages"
        " (in teardown)"
    )
    assert "its own" in ran["test_fails_by_itself"].reason
