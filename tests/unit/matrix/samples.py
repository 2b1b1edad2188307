# SPDX-License-Identifier: MIT
"""Small matrices, made up: cells, columns, rows as explain.rows makes them of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvmharness.contract.generation import Change, Generation
from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import Contract, Row
from kvmharness.kvm.result import Result
from kvmharness.labels import HostLabel
from kvmharness.matrix import explain
from kvmharness.matrix.model import Cell, Column, Matrix
from kvmharness.scenarios.outcome import result_of
from kvmharness.scenarios.step import Call

from ..steps import promises, step


def cell(*texts: str, log: Sequence[str] | None = (), **values: Any) -> Cell:
    """A cell whose steps show what these words of a contract say."""
    steps = tuple(step(text, f"call {number}") for number, text in enumerate(texts))
    return Cell(result_of(steps), steps=steps, log=None if log is None else tuple(log), **values)


def skip(reason: str = "no such thing here") -> Cell:
    return Cell("skip", reason)


def column(release: str, cells: Mapping[str, Cell], kind: str = "emulated-snp") -> Column:
    return Column(f"{release}-amd64", HostLabel(kind, f"{release}-amd64"), {"qemu": "10"}, cells)


def promise(scenario: str, *outcome: str, first: str = "", end: str = "", **values: Any) -> Row:
    return Row(
        Patterns((scenario,)),
        Generation(*(Change.parse(each) if each else None for each in (first, end))),
        promises(*outcome),
        seen=("6.12.1",),
        **values,
    )


CONTRACT = Contract(
    [
        promise("snp.source.aligned", "ok"),
        promise("snp.source.unaligned", "ok", end="7.0", why="copied from any address"),
        promise(
            "snp.source.unaligned",
            "EINVAL",
            first="7.0",
            commit=("dcbcc2323c80",),
            why="the source has to be page aligned",
        ),
        promise("snp.source.null", "EIO", end="7.3", log=("WARNING sev_gmem_post_populate",)),
        promise("snp.source.null", "EINVAL", first="7.3", why="NULL is refused <up front>"),
        promise("snp.state.finish", "ok", "EIO fw=INVALID_PARAM"),
    ]
)


def columns() -> list[Column]:
    warned = cell("EIO", log=["WARNING sev_gmem_post_populate"], log_lines=("WARNING: </script>",))
    back: Result[int] = Result("KVM_MEMORY_ENCRYPT_OP", 0, written_back=(0x4000, 0x5000, 0))
    passed = {"gpa": 0, "source": 0x1000, "bytes": 0x4000}
    whole = Call.of_pages("call 0", back, passed)
    fine = Cell("ok", steps=(whole,), trace=("fd 5  KVM_MEMORY_ENCRYPT_OP = 0",))
    return [
        column(
            release,
            {
                "snp.source.aligned": fine,
                "snp.source.unaligned": cell("ok" if release < "7" else "EINVAL"),
                "snp.source.null": cell("EINVAL") if release == "7.3.4" else warned,
                "snp.source.mapped": skip() if release == "6.12.107" else cell("EIO"),
                "snp.state.finish": cell("ok", "EIO fw=INVALID_PARAM"),
            },
        )
        for release in ("6.12.107", "7.2.12", "7.3.4")
    ]


def matrix(made: Sequence[Column] | None = None) -> Matrix:
    """Five scenarios of which two changed, on three kernels."""
    shown = list(made or columns())
    summaries = {name: f"the summary of {name}" for name in shown[0].cells}
    rows = explain.rows(CONTRACT, shown, summaries)
    return Matrix("snp", "2026-11-22T12:00:00Z", tuple(shown), tuple(rows))
