# SPDX-License-Identifier: MIT
"""tests/kvm/COVERAGE.md names tests that exist, and scenario ids are used once."""

from __future__ import annotations

import re
from pathlib import Path

from kvmharness.scenarios import catalog

TESTS = Path(__file__).resolve().parents[2]
ID = re.compile(r"\b(?:gmem|attr|kvm|run)\.[a-z_0-9]+\.[a-z_0-9]+\b(?!\*)")


def scenario_ids() -> list[str]:
    sources = [*TESTS.glob("kvm/test_*.py"), *TESTS.glob("stress/test_*.py")]
    texts = [source.read_text(encoding="utf-8") for source in sources]
    return [found for text in texts for found in re.findall(r'scenario\("([^"]+)"\)', text)]


def test_the_table_names_scenarios_that_exist() -> None:
    table = (TESTS / "kvm" / "COVERAGE.md").read_text(encoding="utf-8")
    named = set(ID.findall(table))
    assert len(named) > 40
    assert named <= set(scenario_ids())


def test_each_id_is_one_test_or_one_scenario() -> None:
    ids = [*scenario_ids(), *catalog.all_scenarios()]
    assert len(ids) > 400
    assert sorted(ids) == sorted(set(ids))


def test_scenarios_have_three_parts_or_say_one_thing_of_run() -> None:
    for scenario in scenario_ids():
        assert re.fullmatch(r"(gmem|attr|kvm|run)(\.[a-z0-9_]+){1,2}", scenario), scenario
