# SPDX-License-Identifier: MIT
"""Small matrices, made up: cells, columns, rows as explain.rows makes them of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvmharness.contract.generation import Change, Generation
from kvmharness.contract.patterns import Patterns
from kvmharness.contract.rows import Contract, Row
from kvmharness.labels import HostLabel
from kvmharness.matrix import explain
from kvmharness.matrix.model import Cell, Column, Matrix

ERRNOS = {"EINVAL": 22, "EIO": 5, "EPERM": 1, "EFAULT": 14}
FIRMWARE = 0x16


def cell(*texts: str, log: Sequence[str] = (), **values: Any) -> Cell:
    """A cell whose steps are calls with these texts; a text that begins with ``=`` is a fact."""
    steps: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        step: dict[str, Any] = {"label": f"call {number}", "text": text.removeprefix("=")}
        if not text.startswith("="):
            step["errno"] = ERRNOS.get(text.split()[0], 0)
            step["fw_error"] = FIRMWARE if "fw=" in text else 0
        steps.append(step)
    return Cell(texts[-1].split()[0], steps=tuple(steps), log=tuple(log), **values)


def skip(reason: str = "no such thing here") -> Cell:
    return Cell("skip", reason)


def column(release: str, cells: Mapping[str, Cell], kind: str = "emulated-snp") -> Column:
    return Column(f"{release}-amd64", HostLabel(kind, f"{release}-amd64"), {"qemu": "10"}, cells)


def promise(scenario: str, *outcome: str, first: str = "", end: str = "", **values: Any) -> Row:
    return Row(
        Patterns((scenario,)),
        Generation(*(Change.parse(each) if each else None for each in (first, end))),
        outcome,
        seen=("6.12.1",),
        **values,
    )


CONTRACT = Contract(
    [
        promise("snp.source.aligned", "ok +4"),
        promise("snp.source.unaligned", "ok +4", end="7.0", why="copied from any address"),
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
    back = {"asked": (0, 0x1000, 0x4000), "written_back": (0x4000, 0x5000, 0)}
    fine = cell("ok +4", trace=("fd 5  KVM_MEMORY_ENCRYPT_OP = 0",))
    fine = Cell(fine.result, steps=({**fine.steps[0], **back},), trace=fine.trace)
    return [
        column(
            release,
            {
                "snp.source.aligned": fine,
                "snp.source.unaligned": cell("ok +4" if release < "7" else "EINVAL"),
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
