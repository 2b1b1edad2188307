# SPDX-License-Identifier: MIT
"""Report files are refused before a run, whole after it, and untouched until then."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.report.output import ReportFile


def test_until_it_is_written_the_old_report_stays(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    with ReportFile(str(path)) as report:
        assert path.read_text() == "old"
        report.write("new")
        assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["report"]


def test_a_report_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    with ReportFile(str(tmp_path / "report")):
        pass
    assert os.listdir(tmp_path) == []


def test_its_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    with ReportFile(str(tmp_path / "report")) as report:
        report.write("x")
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("report", "other")}
    assert len(modes) == 1


def test_without_o_tmpfile_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_tmpfile(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", no_tmpfile)
    with ReportFile(str(tmp_path / "given-up")):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with ReportFile(str(tmp_path / "report")) as report:
        report.write("x")
    (tmp_path / "other").touch()
    assert sorted(os.listdir(tmp_path)) == ["other", "report"]
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("report", "other")}
    assert len(modes) == 1


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with ReportFile(str(tmp_path / "link")) as report:
        report.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_in_place(tmp_path: Path) -> None:
    with ReportFile("/dev/null") as report:
        report.write("x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("absent/report", "No such file or directory"),
        ("", "it is a directory"),
        ("/dev/null/report", "Not a directory"),
    ],
)
def test_what_can_not_be_written_is_wrong_usage(tmp_path: Path, path: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"can't write .*: {why}"):
        ReportFile(str(tmp_path / path))


def test_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with ReportFile("-") as report:
        assert report.is_stdout
        report.write("here\n")
    assert capsys.readouterr().out == "here\n"


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    source = (
        "import os, signal, sys\n"
        "from kvmharness.report.output import ReportFile\n"
        "report = ReportFile(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "report"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", source, path], timeout=20, check=False)
    assert done.returncode == -9
    if os.listdir(tmp_path) != ["report"]:
        pytest.skip("this file system has no O_TMPFILE")
    assert path.read_text() == "old"
