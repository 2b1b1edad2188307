# SPDX-License-Identifier: MIT
"""The matrix for a mail, and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kvmharness.matrix import table, text

from .samples import cell, column, columns, matrix


def shown(width: int, *, everything: bool = False) -> str:
    out = io.StringIO()
    table.show(Console(file=out, width=width), matrix(), everything=everything)
    return out.getvalue()


def test_a_mail_is_ascii_and_76_columns_wide() -> None:
    long = {"snp.a." + "very_long_" * 6: cell(*("ok", "EINVAL") * 20, log=["WARNING f\u2026"])}
    for made in (matrix(), matrix([column("7.3.4", long)])):
        lines = text.render(made).split("\n")
        assert max(map(len, lines)) <= 76
        assert "\n".join(lines).isascii()
        assert not any(line != line.rstrip() for line in lines)


def test_a_mail_has_what_changed_first_with_the_commit() -> None:
    mail = text.render(matrix())
    assert "emulated, not a hardware result" in mail
    assert mail.index("2 of 5 scenarios differ") < mail.index("snp.source.aligned")
    changed = mail[mail.index("snp.source.unaligned:") :]
    assert "  6.12.107         ok\n  7.2.12 to 7.3.4  EINVAL\n" in changed
    assert "> from 7.0: the source has to be page aligned [commit dcbcc2323c80]" in changed
    assert "snp.source.mapped   EIO (not run on 6.12.107)" in mail


def test_rows_that_changed_alike_share_an_entry() -> None:
    made = columns()
    twins = [
        column(c.label.kernel.removesuffix("-amd64"), {**c.cells, "snp.x.y": c.cells[name]})
        for c, name in zip(made, ["snp.source.unaligned"] * 3, strict=True)
    ]
    mail = text.render(matrix(twins))
    # snp.x.y has no contract row: another reason, another entry.
    assert mail.count("7.2.12 to 7.3.4  EINVAL") == 2
    assert "7.2.12: the contract knows of no such change" in mail


def test_a_single_kernel_has_outcomes_and_no_changes() -> None:
    mail = text.render(matrix(columns()[:1]))
    assert "differ" not in mail
    assert "outcomes\n" in mail


@pytest.mark.parametrize("width", [60, 80, 140, 240])
def test_the_table_fits_its_terminal(width: int) -> None:
    printed = shown(width, everything=True)
    assert max(map(len, printed.split("\n"))) <= width
    assert "2 of 5 scenarios differ" in printed
    assert "emulated, not a hardware result" in printed


def test_the_table_has_what_changed_unless_all_is_asked_for() -> None:
    assert "snp.source.aligned" not in shown(140)
    assert "3 are alike (--all shows them)" in shown(140)
    assert "snp.source.aligned" in shown(140, everything=True)
    assert "[commit dcbcc2323c80]" in shown(140)


def test_a_broken_promise_is_seen() -> None:
    out = io.StringIO()
    patched = column("7.3.9", {name: cell("EPERM") for name in columns()[0].cells})
    table.show(Console(file=out, width=160), matrix([columns()[2], patched]))
    assert "7.3.9: 4 not as the contract promises" in out.getvalue()
    assert "EPERM (breaks the contract)" in out.getvalue()
