# SPDX-License-Identifier: MIT
"""The contract's rows as they are: each scenario has its promises, each promise a scenario."""

from __future__ import annotations

import pytest

from kvmharness.contract import files
from kvmharness.contract.rows import Row
from kvmharness.release import Release
from kvmharness.scenarios import catalog

#: A series of each generation: what changed for somebody, changed between two of these.
GENERATIONS = ("6.12", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "7.4")

SCENARIOS = list(catalog.all_scenarios())
CONTRACT = files.load()


def described(row: Row) -> str:
    return f"{row.scenarios} ({row.kernels})"


def test_every_scenario_has_promises_and_every_promise_scenarios() -> None:
    assert CONTRACT.check(SCENARIOS) == []


@pytest.mark.parametrize("series", GENERATIONS)
def test_every_scenario_has_a_promise_of_every_generation(series: str) -> None:
    assert all(CONTRACT.rows_for(name, series) for name in SCENARIOS)


def test_every_promise_says_why() -> None:
    assert [described(row) for row in CONTRACT.rows if not row.why and not row.commit] == []


def test_what_is_queued_is_for_a_series_to_come_and_was_read() -> None:
    queued = [row for row in CONTRACT.rows if row.queued]
    assert queued
    for row in queued:
        assert row.generation.order >= Release(7, 4, candidate=0)
        assert row.read
        assert row.why
        assert "queued, not yet seen on a released kernel" in row.origin


def test_the_seed_series_can_be_told_from_the_rows() -> None:
    def promised(name: str, series: str) -> tuple[str, ...]:
        return tuple(map(str, CONTRACT.rows_for(name, series)[0].outcome))

    assert promised("snp.source.unaligned", "6.19") == ("ok",)
    assert promised("snp.source.unaligned", "7.0") == ("EINVAL",)
    assert promised("snp.source.null", "7.2") == ("EIO",)
    assert CONTRACT.rows_for("snp.source.null", "7.2")[0].log == ("WARNING sev_gmem_post_populate",)
    assert promised("snp.source.null", "7.3") == ("EINVAL",)
    assert CONTRACT.rows_for("snp.source.null", "7.3")[0].log == ()
    assert promised("snp.source.readonly_cpuid", "6.18") == ("ok",)
    assert promised("snp.source.readonly_cpuid", "7.3") == ("EIO",)
