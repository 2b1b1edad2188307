# SPDX-License-Identifier: MIT
"""Bad input: one clear line on stderr, nothing on stdout, exit status 2, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kvmharness as package

from .command import kvmharness


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["prob"], "no command 'prob'; there are: probe, run"),
        (["--nope"], "No such option"),
        (["probe", "--nope"], "No such option"),
        (["probe", "extra"], "unexpected extra argument"),
        (["run", "--host", "mars"], "--host mars: no such host; there are: native, emulated-snp"),
        (["run", "--kernel", "6.12"], "--kernel is for emulated hosts"),
        (["run", "--smp", "2"], "--smp is for emulated hosts"),
        (["run", "--kernel-coverage", "/tmp"], "--kernel-coverage is for emulated hosts"),
        (
            ["run", "--host", "emulated-snp", "--kernel-coverage", "/dev/null/x"],
            "--kernel-coverage /dev/null/x: Not a directory",
        ),
        (["run", "--require", "moon"], "--require moon: not kvm, a VM type"),
        (["run", "--timeout", "soon"], "not a valid float"),
        (["run", "--timeout", "0"], "not in the range"),
        (["run", "--ktap", "/absent/file"], "can't write /absent/file: No such file"),
        (["run", "--json", "/"], "can't write /: it is a directory"),
        (["run", "--ktap", "same", "--json", "./same"], "same file"),
        (["run", "--ktap", "-", "--json", "-"], "same file"),
        (["run", "--trace", "/absent/trace"], "can't write the trace to /absent/trace"),
        (["--trace", "/absent/trace", "probe"], "can't write the trace to /absent/trace"),
        (["trace", "/absent/trace"], "can't read /absent/trace: No such file"),
        (["trace"], "Missing argument"),
        (["bench", "--rounds", "0"], "not in the range"),
        (["bench", "--json", "/no/dir/x"], "can't write /no/dir/x: No such file"),
    ],
)
def test_wrong_usage_is_one_line(args: list[str], said: str, tmp_path: Path) -> None:
    ended = kvmharness(*args, cwd=tmp_path)
    assert ended.status == 2
    assert ended.line.startswith("kvmharness: ")
    assert said in ended.line
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_is_none_is_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"ioctl": "KVM_RUN", "errno": "ok", "ret": 0}\nnot json\n')
    ended = kvmharness("trace", str(path))
    assert ended.status == 2
    assert ended.line == f"kvmharness: {path}, line 2: not an entry of a trace"


def test_version_and_help() -> None:
    assert kvmharness("--version").out.strip() == f"kvmharness, version {package.__version__}"
    helped = kvmharness("--help")
    assert helped.status == 0
    for command in ("probe", "run", "host", "trace"):
        assert f"\n  {command} " in helped.out
    assert kvmharness().out == helped.out
    for command in ("probe", "run", "trace"):
        assert kvmharness(command, "-h").out.startswith(f"Usage: kvmharness {command}")


def test_a_closed_pipe_ends_it_quietly() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kvmharness probe --json | head -1"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_import_is_cheap_and_loads_no_binding() -> None:
    source = (
        "import sys, time; began = time.perf_counter(); import kvmharness;"
        "took = time.perf_counter() - began; import json;"
        "print(json.dumps([took, 'kvmharness._kvm' in sys.modules, 'click' in sys.modules]))"
    )
    took = []
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        seconds, binding, click = json.loads(out)
        assert not binding
        assert not click
        took.append(seconds)
    assert min(took) < 0.1
