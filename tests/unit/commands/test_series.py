# SPDX-License-Identifier: MIT
"""The commands about a series, with its examination faked: input, output, exit status."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvmharness.commands import review_check as check_command
from kvmharness.commands import series as series_command
from kvmharness.errors import MissingCapability, UsageError
from kvmharness.kernels import kernels
from kvmharness.kernels.kernels import Kernel
from kvmharness.kernels.modulebuild import BuildFailed
from kvmharness.kernels.patch_tool import DoesNotApply
from kvmharness.review.model import Review
from kvmharness.review.work import Wanted

from ..kernels.test_patches import diff
from ..kernels.test_series import KVM, mail, mbox, patch_mail
from ..matrix.samples import cell
from ..review.test_text import ALIKE, BROKEN, difference, review

CHANGED = review(difference("changed", cell("ok")))
Run = Callable[..., Result]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """What was asked to be examined; CHANGED is what comes of it."""
    there: list[Wanted] = []
    kernel = Kernel("7.3.4+deb13-amd64", tmp_path / "vmlinux", tmp_path, "Debian")

    def examine(wanted: Wanted) -> Review:
        there.append(wanted)
        return replace(CHANGED, series=wanted.series)

    monkeypatch.setattr(kernels, "get", lambda base: kernel)
    for module in (series_command, check_command):
        monkeypatch.setattr(module, "examine", examine)
    return there


def run(*arguments: str) -> Result:
    return CliRunner().invoke(series_command.series, list(arguments), standalone_mode=False)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return mbox(tmp_path / "s.mbox", patch_mail("[PATCH] KVM: one"))


def test_a_series_is_examined_for_every_vm_type(asked: list[Wanted], file: str) -> None:
    result = run(file)
    assert result.return_value == 3
    (wanted,) = asked
    assert list(wanted.scenarios) == ["default", "snp", "tdx"]
    assert min(map(len, wanted.scenarios.values())) > 10
    assert (wanted.each, wanted.variant, wanted.left_out) == (False, "", ())
    assert "10 scenarios compared: 1 changed" in result.output


def test_what_is_left_out_is_said(asked: list[Wanted], file: str) -> None:
    run(file, "--vm-type", "snp", "--only", "snp.source", "--meant", "snp.source.null", "--each")
    (wanted,) = asked
    assert all(name.startswith("snp.source.") for name in wanted.scenarios["snp"])
    assert (wanted.each, wanted.meant) == (True, {"snp.source.null"})
    types, scenarios = wanted.left_out
    assert types == "VM types that were not asked for: default, tdx"
    assert scenarios.endswith("scenarios that were not asked for")


def test_a_variant_is_the_base_too(asked: list[Wanted], file: str) -> None:
    run(file, "--kernel", "7.3:sw-protected")
    assert asked[0].variant == "sw-protected"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tested-by", "A <a@b>"], "give --text as well"),
        (["--text", "--tested-by", "A"], "give 'Name <mail@example.org>'"),
        (["--text", "--tested-by", "A <a>"], "give 'Name <mail@example.org>'"),
        (["--kernel", "7.3+other.mbox"], "give a packaged kernel"),
        (["--kernel", "/"], "give a packaged kernel"),
        (["--kernel", "x"], "give a series"),
        (["--only", "snp.nothing"], "no scenario is called 'snp.nothing'"),
        (["--meant", "snp.nothing"], "no scenario is called 'snp.nothing'"),
        (["--json", "/absent/x"], "can't write /absent/x"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, asked: list[Wanted], file: str) -> None:
    result = run(file, *arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert asked == []


def test_a_hunk_outside_kvm_cannot_be_tested(asked: list[Wanted], tmp_path: Path) -> None:
    (tmp_path / "a.diff").write_text(diff(KVM) + diff("mm/gup.c"))
    result = run(str(tmp_path / "a.diff"))
    assert isinstance(result.exception, MissingCapability)
    assert "a.diff: mm/gup.c: not in virt/kvm" in str(result.exception)
    assert asked == []


def test_a_patch_that_does_not_fit_cannot_be_tested(
    asked: list[Wanted], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(wanted: Wanted) -> Review:
        raise DoesNotApply("'KVM: one' does not apply to 7.3.4: x.c: hunk 1")

    monkeypatch.setattr(series_command, "examine", examine)
    result = run(file)
    assert isinstance(result.exception, MissingCapability)
    assert "s.mbox: 'KVM: one' does not apply to 7.3.4: x.c: hunk 1" in str(result.exception)


def test_the_trailer_and_json(asked: list[Wanted], file: str, tmp_path: Path) -> None:
    written = tmp_path / "s.json"
    result = run(file, "--text", "--tested-by", "A B <a@example.org>", "--json", str(written))
    assert result.output.endswith("\nTested-by: A B <a@example.org>\n")
    assert json.loads(written.read_text())["exit_status"] == 3
    result = run(file, "--json", "-")
    assert json.loads(result.stdout)["schema"] == "kvmharness.series/1"


def test_no_trailer_for_what_broke(
    asked: list[Wanted], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_command, "examine", lambda wanted: BROKEN)
    result = run(file, "--text", "--tested-by", "A <a@example.org>")
    assert result.return_value == 1
    assert "Tested-by: A" not in result.output
    assert "no Tested-by: something broke" in result.output


# ------------------------------------------------------------------ b4's protocol


def check(message: str, *arguments: str) -> list[dict[str, str]]:
    command = check_command.review_check
    result = CliRunner().invoke(command, list(arguments), input=message, standalone_mode=False)
    if result.exception:
        raise result.exception
    assert result.return_value == 0
    found = json.loads(result.stdout)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("review_", "status"), [(ALIKE, "pass"), (CHANGED, "warn"), (BROKEN, "fail")]
)
def test_a_patch_gets_a_result(
    asked: list[Wanted], monkeypatch: pytest.MonkeyPatch, review_: Review, status: str
) -> None:
    monkeypatch.setattr(check_command, "examine", lambda wanted: review_)
    (found,) = check(patch_mail("[PATCH] KVM: one"))
    assert found.keys() == {"tool", "status", "summary", "details"}
    assert (found["tool"], found["status"]) == ("kvmharness", status)
    assert "emulated, Linux 7.3.4" in found["summary"]
    assert "\n" not in found["summary"]
    assert "Not tested" in found["details"]


def test_a_patch_of_something_else_is_not_spoken_of(asked: list[Wanted]) -> None:
    assert check(patch_mail("[PATCH] docs: one", "Documentation/virt/kvm/api.rst")) == []
    assert asked == []


def test_what_cannot_be_tested_is_a_warning(asked: list[Wanted]) -> None:
    (found,) = check(patch_mail("[PATCH] mm: one", "mm/gup.c"))
    assert (found["status"], "mm/gup.c: not in virt/kvm" in found["summary"]) == ("warn", True)


def test_an_error_of_several_lines_has_one_in_its_summary(
    asked: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(wanted: Wanted) -> Review:
        raise BuildFailed("kvm does not build for this kernel:\nx.c:1: error: no")

    monkeypatch.setattr(check_command, "examine", examine)
    (found,) = check(patch_mail("[PATCH] KVM: one"))
    assert (found["status"], found["details"]) == ("fail", "x.c:1: error: no")


def test_a_cover_letter_without_b4_says_what_it_takes(
    asked: list[Wanted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = check(mail("[PATCH 0/2] KVM: all", "Cover.\n"))
    assert (found["status"], "takes b4" in found["summary"]) == ("warn", True)


def test_no_message_is_wrong_usage(asked: list[Wanted]) -> None:
    with pytest.raises(UsageError, match="no message on standard input"):
        check("")


def test_the_patches_before_it_come_from_b4s_branch(
    asked: list[Wanted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        own = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        done = subprocess.run(
            own, cwd=tmp_path, check=True, timeout=30, capture_output=True, text=True
        )
        return done.stdout.strip()

    (tmp_path / "virt/kvm").mkdir(parents=True)
    git("init", "-q", "-b", "b4/review/20261126-topic")
    commits = []
    for number in range(4):
        (tmp_path / KVM).write_text(f"{number}\n")
        git("add", ".")
        git("commit", "-qm", f"KVM: {number}")
        commits.append(git("rev-parse", "HEAD"))
    git("commit", "-q", "--allow-empty", "-m", "b4 keeps its notes here")
    tracking = tmp_path / "tracking.json"
    known = {"first-patch-commit": commits[1], "change-id": "20261126-topic"}
    tracking.write_text(json.dumps({"series": known}))
    monkeypatch.setenv("B4_TRACKING_FILE", str(tracking))
    monkeypatch.chdir(tmp_path)
    check(patch_mail("[PATCH 2/3] KVM: 2"))
    check(mail("[PATCH 0/3] KVM: all", "Cover.\n"))
    titles = [[patch.title for patch in wanted.series.patches] for wanted in asked]
    assert titles == [["KVM: 1", "KVM: 2"], ["KVM: 1", "KVM: 2", "KVM: 3"]]
    # What is no commit does not get to git.
    known["first-patch-commit"] = "--output=x"
    tracking.write_text(json.dumps({"series": known}))
    check(patch_mail("[PATCH 2/3] KVM: 2"))
    assert [patch.title for patch in asked[-1].series.patches] == ["KVM: 2"]
    assert not os.path.exists("x")
