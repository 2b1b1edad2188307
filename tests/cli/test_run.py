# SPDX-License-Identifier: MIT
"""``kvmharness run`` on this host: verdicts, exit statuses, reports, and ends of every kind."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmharness import Kvm

from .command import argv, environment, kvmharness

pytestmark = pytest.mark.usefixtures("kvm")  # without it there is one line and nothing to see

MakeSuite = Callable[[str], Path]

MIXED = """
    def test_passes(kvm): pass
    def test_crashes(): os.kill(os.getpid(), signal.SIGSEGV)
    def test_fails(kvm):
        with kvm.create_vm() as vm:
            assert vm.try_.create_guest_memfd(1).ok, "this is why"
    def test_exits(): os._exit(7)
    @pytest.mark.deadline(0.2)
    def test_hangs(): time.sleep(60)
    @pytest.mark.scenario("gmem.punch.all")
    def test_punch(record): record["pages"] = 3
    def test_skips(): pytest.skip("no such thing here")
    def test_skips_too(): pytest.skip("no such thing here")
    @pytest.mark.destructive
    def test_destroys(): pass
"""


def report(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_every_kind_of_end_has_its_verdict(make_suite: MakeSuite, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ktap", "junit", "json")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    ended = kvmharness("run", *options, suite=make_suite(MIXED))
    assert (ended.status, ended.err) == (1, "")
    result = report(files["json"])
    records = {record["id"]: record for record in result["records"]}
    assert {test_id: record["outcome"] for test_id, record in records.items()} == {
        "kvm.it.passes": "passed",
        "kvm.it.crashes": "failed",
        "kvm.it.fails": "failed",
        "kvm.it.exits": "failed",
        "kvm.it.hangs": "failed",
        "gmem.punch.all": "passed",
        "kvm.it.skips": "skipped",
        "kvm.it.skips_too": "skipped",
        "kvm.it.destroys": "skipped",
    }
    assert records["kvm.it.crashes"]["reason"] == "the test process was killed by SIGSEGV"
    assert "in test_crashes" in records["kvm.it.crashes"]["report"]
    assert "ended with status 7 in the middle" in records["kvm.it.exits"]["reason"]
    assert records["kvm.it.hangs"]["reason"] == "deadline: call took longer than 0.2 s"
    assert records["kvm.it.fails"]["reason"] == "AssertionError: this is why"
    assert records["kvm.it.fails"]["ioctls"][-1].endswith("size=1 = EINVAL")
    assert records["gmem.punch.all"]["details"] == {"pages": 3}
    assert result["summary"] == {
        "passed": 2,
        "failed": 4,
        "error": 0,
        "skipped": 3,
        "not_run": 0,
    }
    for record in records.values():
        assert (record["host"], record["emulated"]) == ("native", False)
        assert record["kernel"] == os.uname().release
    rows = [line.split() for line in ended.out.splitlines()]
    counts = ["native", os.uname().release, "2", "4", "0", "3", "0"]
    assert counts in [row[:7] for row in rows]
    assert ["2", "no", "such", "thing", "here"] in rows
    assert "KVM_CREATE_GUEST_MEMFD size=1 = EINVAL" in ended.out
    assert "\n1..1\n" in files["ktap"].read_text()
    assert 'failures="4"' in files["junit"].read_text()


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("def test_a(): pass\ndef test_b(): pytest.skip('x')", 0),
        ("def test_a(): pass\ndef test_b(): assert 0", 1),
        ("def test_a(): pytest.skip('x')", 4),
        ("import there_is_no_such_module", 1),
    ],
)
def test_the_exit_status(make_suite: MakeSuite, source: str, status: int) -> None:
    assert kvmharness("run", suite=make_suite(source)).status == status


def test_selections(make_suite: MakeSuite) -> None:
    suite = make_suite(MIXED)

    def ran(*select: str) -> list[str]:
        ended = kvmharness("run", "--json", "-", *select, suite=suite)
        assert ended.status in (0, 4)
        return [record["id"] for record in json.loads(ended.out)["records"]]

    assert ran("gmem.punch", "kvm.it.passes") == ["kvm.it.passes", "gmem.punch.all"]
    assert ran("*.skips*") == ["kvm.it.skips", "kvm.it.skips_too"]
    assert ran("kvm/test_it.py::test_skips") == ["kvm.it.skips"]
    assert ran("kvm", "--", "-k", "passes or punch") == ["kvm.it.passes", "gmem.punch.all"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "no test is called 'nope'; there are: gmem, kvm"),
        (["gmem.pnch"], "no test is called 'gmem.pnch'; close to it: gmem.punch"),
        (["--require", "tdx"], "--require tdx: no selected test needs it"),
        (["kvm", "--", "--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_what_only_the_suite_knows_is_wrong_usage_too(
    make_suite: MakeSuite, tmp_path: Path, args: list[str], said: str
) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    ended = kvmharness("run", "--json", str(path), *args, suite=make_suite(MIXED))
    assert (ended.status, ended.out) == (2, "")
    assert ended.line.startswith("kvmharness: ")
    assert said in ended.line
    assert path.read_text() == "old"


def test_a_requirement_makes_its_skips_failures(make_suite: MakeSuite) -> None:
    suite = make_suite("""
        @pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD", bits=1 << 20)
        def test_new(): pass
        def test_other(): pytest.skip("x")
        def test_fine(): pass
    """)
    assert kvmharness("run", suite=suite).status == 0
    ended = kvmharness("run", "--require", "guest_memfd", suite=suite)
    assert ended.status == 1
    assert "required by --require KVM_CAP_GUEST_MEMFD, but skipped" in ended.out


def test_destructive_tests_run_when_asked_for(make_suite: MakeSuite) -> None:
    suite = make_suite("@pytest.mark.destructive\ndef test_it(): pass")
    assert kvmharness("run", suite=suite).status == 4
    assert kvmharness("run", "--destructive", suite=suite).status == 0


def test_dash_x_stops_and_says_what_was_not_run(make_suite: MakeSuite) -> None:
    source = "def test_a(): assert 0\ndef test_b(): pass\ndef test_c(): pass"
    ended = kvmharness("run", "--json", "-", "kvm", "--", "-x", suite=make_suite(source))
    assert json.loads(ended.out)["summary"] == {
        "passed": 0,
        "failed": 1,
        "error": 0,
        "skipped": 0,
        "not_run": 2,
    }


def test_a_report_that_can_not_be_written_takes_no_other_with_it(
    make_suite: MakeSuite, tmp_path: Path
) -> None:
    json_file = tmp_path / "json"
    suite = make_suite("def test_a(): pass")
    ended = kvmharness("run", "--ktap", "/dev/full", "--json", str(json_file), suite=suite)
    assert ended.status == 1
    assert ended.line == (
        "kvmharness: can't write the ktap report to /dev/full: No space left on device"
    )
    assert report(json_file)["summary"]["passed"] == 1
    assert "native" in ended.out  # the summary is shown all the same


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "permission denied"), (errno.ENOENT, "no KVM")]
)
def test_without_kvm_there_is_one_line(
    make_suite: MakeSuite, tmp_path: Path, number: int, said: str
) -> None:
    suite = make_suite(MIXED)
    ktap = tmp_path / "ktap"
    ended = kvmharness("run", "--ktap", str(ktap), suite=suite, kvm_errno=number)
    assert (ended.status, ended.out) == (4, "")
    assert ended.line.startswith("kvmharness: /dev/kvm: ")
    assert said in ended.line
    assert f"ok 1 native {os.uname().release} # SKIP /dev/kvm" in ktap.read_text()
    ended = kvmharness("run", "--require", "snp", suite=suite, kvm_errno=number)
    assert ended.status == 1
    assert ended.line.startswith("kvmharness: required by --require snp: /dev/kvm: ")


def test_the_trace_of_a_run_can_be_shown(make_suite: MakeSuite, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    suite = make_suite("def test_a(vm): vm.try_.create_guest_memfd(1)")
    assert kvmharness("run", "--trace", str(trace), suite=suite).status == 0
    shown = kvmharness("trace", str(trace))
    assert shown.out.splitlines()[-1].endswith("KVM_CREATE_GUEST_MEMFD size=1 = EINVAL")
    assert len(kvmharness("trace", "--errors", str(trace)).out.splitlines()) == 1
    assert "KVM_CREATE_VM" not in kvmharness("trace", "--ioctl", "memfd", str(trace)).out
    summary = [
        line.split() for line in kvmharness("trace", "--summary", str(trace)).out.splitlines()
    ]
    assert ["KVM_CREATE_GUEST_MEMFD", "1"] in [row[:2] for row in summary]
    # The group's option is the same, and the file is this run's alone.
    assert kvmharness("--trace", str(trace), "run", suite=suite).status == 0
    assert kvmharness("trace", str(trace)).out.count("KVM_CREATE_GUEST_MEMFD") == 1


def test_the_suite_s_time_is_limited(make_suite: MakeSuite) -> None:
    source = "def test_a(): pass\ndef test_b(): time.sleep(60)\ndef test_c(): pass"
    began = time.monotonic()
    ended = kvmharness("run", "--timeout", "2", "--json", "-", suite=make_suite(source))
    assert time.monotonic() - began < 15
    assert ended.status == 1
    reasons = {record["id"]: record["reason"] for record in json.loads(ended.out)["records"]}
    assert reasons == {
        "kvm.it.a": "",
        "kvm.it.b": "still running when the run's 2 s were over",
        "kvm.it.c": "not run: the run's time was over",
    }


def test_verbose_tells_each_test(make_suite: MakeSuite) -> None:
    ended = kvmharness("run", "-v", "gmem", "skips", suite=make_suite(MIXED))
    assert re.search(r"^passed  gmem\.punch\.all  \d+ ms$", ended.out, re.MULTILINE)
    assert "skipped kvm.it.skips  no such thing here" in ended.out


# ------------------------------------------------------------------ on a terminal


def test_a_terminal_gets_a_live_line_and_then_the_summary(make_suite: MakeSuite) -> None:
    suite = make_suite("def test_a(): time.sleep(0.5)\ndef test_b(): pass")
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            argv("run", suite=suite),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", COLUMNS="100"),
        ) as child:
            os.close(theirs)
            theirs = -1
            output = b""
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if not select.select([ours], [], [], 1)[0]:
                    continue
                try:
                    data = os.read(ours, 4096)
                except OSError:  # the other side is closed
                    break
                output += data
            assert child.wait(10) == 0
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "0/2" in plain
    assert "kvm.it.a" in plain
    assert plain.splitlines()[-1].split()[:5] == ["native", os.uname().release, "2", "0", "0"]


# ------------------------------------------------------------------ interrupted

WAITING = """
    def test_first(): pass
    def test_waits(tmp_path):
        import subprocess
        child = subprocess.Popen(["sleep", "300"])
        with open({path!r}, "w") as file:
            file.write(f"{{os.getpid()}} {{child.pid}}\\n")
        time.sleep(300)
    def test_last(): pass
"""


def wait_for_pids(path: Path) -> list[int]:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        if path.exists() and path.read_text().endswith("\n"):
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.02)
    raise AssertionError("the test never started")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def all_gone(pids: list[int]) -> bool:
    give_up = time.monotonic() + 5
    while not all(map(gone, pids)) and time.monotonic() < give_up:
        time.sleep(0.02)
    return all(map(gone, pids))


@pytest.mark.parametrize(
    ("number", "status", "how"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended from outside")],
)
def test_an_interrupt_ends_everything_and_what_is_known_is_in_every_report(
    make_suite: MakeSuite, tmp_path: Path, number: int, status: int, how: str
) -> None:
    pids = tmp_path / "pids"
    reports = {name: tmp_path / name for name in ("ktap", "junit", "json", "kcidb")}
    reports["json"].write_text("old")
    suite = make_suite(WAITING.format(path=str(pids)))
    options = [word for name, path in reports.items() for word in (f"--{name}", str(path))]
    files = {path.name for path in tmp_path.iterdir()} | reports.keys() | {"pids"}
    with subprocess.Popen(
        argv("run", "--host", "native", "--host", "emulated-snp", *options, suite=suite),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(tmp_path)),
    ) as child:
        started = wait_for_pids(pids)
        child.send_signal(number)
        out, said = child.communicate(timeout=20)
    assert child.returncode == status
    assert said == (
        f"kvmharness: {how}: 2 of 4 tests did not run; what is known is in the "
        "ktap, junit, json, kcidb report\n"
    )
    assert "Traceback" not in out
    assert all_gone(started)
    left = {path.name for path in tmp_path.iterdir()} - files
    assert not {name for name in left if not name.startswith("pytest-of")}

    result = report(reports["json"])
    assert result["exit_status"] == status
    assert [(r["id"], r["outcome"], r["cause"], r["reason"]) for r in result["records"]] == [
        ("kvm.it.first", "passed", "", ""),
        ("kvm.it.waits", "error", "", f"the run was {how} in this test"),
        ("kvm.it.last", "error", "not-run", f"not run: the run was {how}"),
        # The second host, which was not even prepared.
        ("emulated-snp", "error", "not-run", "not run: the run was cut short"),
    ]
    statuses = [test["status"] for test in report(reports["kcidb"])["tests"]]
    assert statuses == ["PASS", "ERROR", "MISS", "MISS"]
    assert 'tests="4" failures="0" errors="3"' in reports["junit"].read_text()
    lines = [line.strip() for line in reports["ktap"].read_text().splitlines()]
    assert f"not ok 3 kvm.it.last # ERROR not run: the run was {how}" in lines


def test_a_kill_leaves_no_test_process(make_suite: MakeSuite, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    suite = make_suite(WAITING.format(path=str(pids)))
    with subprocess.Popen(
        argv("run", suite=suite), stdout=subprocess.DEVNULL, env=environment(TMPDIR=str(tmp_path))
    ) as child:
        pytest_pid, grandchild = wait_for_pids(pids)
        child.kill()
        child.wait(10)
    assert all_gone([pytest_pid])
    # What a test started itself is the test's to end; here, ours.
    os.kill(grandchild, signal.SIGKILL)


def test_the_real_suite_is_there(kvm: Kvm) -> None:
    ended = kvmharness("run", "--json", "-", "kvm", "--", "--collect-only")
    assert ended.status == 4, ended.err  # nothing ran
    assert json.loads(ended.out)["summary"]["not_run"] > 20
