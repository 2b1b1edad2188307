# SPDX-License-Identifier: MIT
"""What the files of a contract may say, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.contract import files
from kvmharness.contract.rows import LOG, ContractError, Row


def loaded(directory: Path, text: str) -> Row:
    (directory / "snp.toml").write_text(text)
    (row,) = files.load(directory).rows
    return row


def test_a_row_with_all_its_keys(tmp_path: Path) -> None:
    row = loaded(
        tmp_path,
        """
        [[promise]]
        scenario = ["a.*", "!a.x"]
        from = ["7.2", "7.1.4"]
        before = "7.3"
        outcome = ["ok", "EINVAL"]
        log = "WARNING f"
        seen = ["7.1.4", "7.2.12"]
        read = "f, a/b.c of 7.2"
        commit = ["dcbcc2323c80", "f13e90059908"]
        why = "so it is"
        stand_in = [2, "log"]
        or = [["ok", "EIO"], { outcome = "ENOTTY", why = "built without" }]
        """,
    )
    assert row.scenarios.mean("a.b")
    assert not row.scenarios.mean("a.x")
    assert row.kernels == "from 7.2 (7.1.4), before 7.3"
    assert row.log == ("WARNING f",)
    assert row.stand_in == {LOG, 2}
    assert [[*map(str, each.outcome)] for each in row.promised] == [
        ["ok", "EINVAL"],
        ["ok", "EIO"],
        ["ENOTTY"],
    ]
    assert "commit dcbcc2323c80, f13e90059908" in row.origin


def test_all_of_a_row_may_be_the_stand_ins(tmp_path: Path) -> None:
    text = '[[promise]]\nscenario = "a"\noutcome = ["ok", "ok"]\nread = "b"\nstand_in = true\n'
    assert loaded(tmp_path, text).stand_in == {LOG, 1, 2}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('outcome = ["ok"]', "say where it comes from"),
        ('seen = ["6.12"]', "scenario and outcome are required"),
        ('outcome = [1]\nseen = ["6.12"]', "`outcome` is a text or a list of texts"),
        ('outcome = ["ok"]\nseen = ["1.0"]\nfrm = "1.0"', "unknown key 'frm'"),
        ('outcome = ["ok"]\nread = "x"\nbefore = "new"', "not a kernel version"),
        ('outcome = ["ok"]\nread = "x"\nfrom = ["7.2", "7.1"]', "7.1 is no point release"),
        ('outcome = ["ok"]\nseen = ["7.3.4"]\nbefore = "7.3"', "seen on 7.3.4, which is not"),
        ('outcome = ["ok"]\nseen = ["7.3.4"]\nqueued = true', "is not queued"),
        ('outcome = "ok"\nread = "mm/gup.c of 7.3"', "is not FUNCTION, FILE of VERSION"),
        ('outcome = "ok"\nread = "f, a/b.c of 7.2"\nfrom = "7.3"', "read in 7.2, none of which is"),
        ('outcome = ["ok"]\ncommit = "a6ad"', "'a6ad' is not 12 digits of a commit"),
        ('outcome = ["ok"]\nread = "x"\nstand_in = [2]', "stand_in marks 2, of 1 steps"),
        ('outcome = ["ok", "okay"]\nread = "x"', "okay is no errno's name"),
        ('outcome = "ok"\nread = "x"\nor = [["= nice"]]', "'= nice': no fact has this answer"),
        ('outcome = ["ok"]\nread = "x"\nor = [5]', "an entry of `or` is a list of texts"),
        ('outcome = ["ok"]\nread = "x"\nor = [{ log = ["x"] }]', "has an `outcome`"),
        ('outcome = "ok"\nread = "x"\nor = [{ outcome = ["x"], by = 1 }]', "unknown key 'by'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(ContractError, match=f"snp.toml: promise of a.b: .*{complaint}"):
        loaded(tmp_path, f'[[promise]]\nscenario = "a.b"\n{row}\n')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[promise]\n", "snp.toml: "),
        ('[[promis]]\nscenario = "a.b"\n', "snp.toml: unknown key 'promis'"),
        ('[[promise]]\noutcome = ["ok"]\n', r"promise of \(no scenario\)"),
        ('[[promise]]\nscenario = "a.{b"\noutcome = "ok"\nread = "x"\n', "a brace"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        loaded(tmp_path, text)
