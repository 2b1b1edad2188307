# SPDX-License-Identifier: MIT
"""Cells in words and kinds, what is alike, and a matrix's JSON there and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.labels import HostLabel
from kvmharness.matrix import model
from kvmharness.matrix.model import Cell, Column

from .samples import cell, matrix, skip


@pytest.mark.parametrize(
    ("shown", "words", "kind"),
    [
        (cell("ok"), "ok", "ok"),
        (cell("ok", "= corrected"), "ok; = corrected", "ok"),
        (cell("ok +2 left 2"), "ok +2 left 2", "partial"),
        (cell("ok +2 left 2", "EIO"), "ok +2 left 2; EIO", "partial"),
        (cell("ok source +0x0"), "ok source +0x0", "ok"),
        (cell("EFAULT +2 left 2"), "EFAULT +2 left 2", "partial"),
        (cell("EFAULT +0 left 3"), "EFAULT +0 left 3", "refused"),
        (cell("EINVAL", "EINVAL", "EINVAL", "EPERM"), "EINVAL x3; EPERM", "refused"),
        (cell("EINVAL", "= unchanged"), "EINVAL; = unchanged", "refused"),
        (cell("EIO fw=INVALID_PARAM"), "EIO fw=INVALID_PARAM", "firmware"),
        (cell("ok", log=["WARNING f"]), "ok; WARNING f", "warning"),
        (skip(), "skip", "skip"),
        (Cell("crash", "panic"), "crash", "crash"),
        (Cell("hang", "still running"), "hang", "crash"),
        (cell("ok", "SIGBUS"), "ok; SIGBUS", "partial"),
        # Of many calls, some have to fail in a race: that is no refusal.
        (cell("= 64 of 64", "some ok, some EIO"), "= 64 of 64; some ok, some EIO", "ok"),
    ],
)
def test_a_cell_in_words(shown: Cell, words: str, kind: str) -> None:
    assert (shown.words, shown.kind) == (words, kind)


def test_what_is_alike() -> None:
    assert cell("ok +2 left 2").alike(cell("ok +2 left 2", trace=("other addresses",)))
    assert not cell("ok").alike(cell("ok +2 left 2"))
    assert not cell("ok").alike(cell("ok", "ok"))
    assert cell("all ok").alike(cell("some ok, some EIO"))
    assert not cell("all ok").alike(cell("all EIO"))
    assert not cell("EIO").alike(cell("EIO", log=["WARNING f"]))
    # Once or twice is the same warning: WARN_ON_ONCE and a retry differ in nothing that counts.
    assert cell("EIO", log=["WARNING f"]).alike(cell("EIO", log=["WARNING f", "WARNING f"]))
    assert skip("one reason").alike(skip("another"))
    assert not skip().alike(cell("ok"))
    assert not Cell("crash").alike(Cell("hang"))


def test_the_json_is_as_documented() -> None:
    values = matrix().as_json()
    assert values["schema"] == "kvmharness.matrix/2"
    assert values["kernels"] == ["6.12.107-amd64", "7.2.12-amd64", "7.3.4-amd64"]
    assert values["emulated"] is True
    assert values["hosts"]["7.3.4-amd64"]["emulated"] is True
    scenarios = {scenario["id"]: scenario for scenario in values["scenarios"]}
    aligned = scenarios["snp.source.aligned"]["outcomes"]["7.3.4-amd64"]
    assert (aligned["result"], aligned["fw_error"], aligned["remaining"]) == ("ok", 0, 0)
    null = scenarios["snp.source.null"]["outcomes"]["6.12.107-amd64"]
    assert (null["result"], null["log"]) == ("EIO", ["WARNING sev_gmem_post_populate"])
    finish = scenarios["snp.state.finish"]["outcomes"]["7.3.4-amd64"]
    assert finish["fw_error"] == 0x16
    skipped = scenarios["snp.source.mapped"]["outcomes"]["6.12.107-amd64"]
    assert skipped == {"result": "skip", "reason": "no such thing here"}
    assert scenarios["snp.source.null"]["changed"] is True
    assert scenarios["snp.source.mapped"]["changed"] is False


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(model.render(matrix()))
    loaded = model.load(path)
    assert loaded.as_json() == json.loads(path.read_text())
    assert [row.id for row in loaded.changed] == ["snp.source.unaligned", "snp.source.null"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("[]", "is not a matrix"),
        ('{"schema": "kvmharness.run/1"}', "its schema is 'kvmharness.run/1'"),
        ('{"schema": "kvmharness.matrix/2"}', "damaged matrix: KeyError"),
        ('{"schema": "kvmharness.matrix/2", "kernels": 5}', "damaged matrix"),
    ],
)
def test_what_is_no_matrix_is_refused_in_one_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        model.load(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"can't read .*: No such file"):
        model.load("/nowhere/m.json")


def test_a_log_that_could_not_be_read_makes_no_difference_and_is_kept() -> None:
    unread, warned = cell("ok", log=None), cell("ok", log=["WARNING f"])
    assert unread.alike(warned)
    assert warned.alike(unread)
    assert not cell("ok").alike(warned)
    assert (unread.words, unread.kind) == ("ok", "ok")
    assert Cell.from_json(json.loads(json.dumps(unread.as_json()))).log is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("7.3.4+deb13-amd64", "7.3.4"),
        ("7.4.0-rc1+", "7.4.0-rc1"),
        ("6.18.44-fc-v657", "6.18.44"),
        ("my-tree", "my-tree"),
        ("7.3.4+series.mbox", "7.3.4+series.mbox"),
        ("7.3.4:sw-protected", "7.3.4:sw-protected"),
    ],
)
def test_a_changed_kernels_short_name_says_that_it_is(name: str, short: str) -> None:
    assert Column(name, HostLabel("emulated-snp", name), {}, {}).short == short


def test_what_the_kernel_still_held_is_kept_with_the_cell() -> None:
    shown = cell("ok", held=("1 page",))
    assert Cell.from_json(shown.as_json()).held == ("1 page",)
