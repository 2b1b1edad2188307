# SPDX-License-Identifier: MIT
"""The share of a function that was reached, and the gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.coverage.executed import Executed
from kvmharness.coverage.interest import Group, groups
from kvmharness.coverage.measure import FunctionCoverage, Gap, Subject

from .samples import module

pytest.importorskip("capstone")

TEXT = ("kvm_amd", ".text")
GROUP = Group("SNP", "kvm_amd", "sev.c", ("*",), ("convert",))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    file = tmp_path / "kvm-amd.ko"
    file.write_bytes(module())
    return Subject({"kvm-amd": file}, [GROUP])


def _measured(subject: Subject, *ran: tuple[int, int]) -> dict[str, FunctionCoverage]:
    executed = Executed(subject.sizes)
    executed.add_stretches({TEXT: 0x1000}, [(0x1000 + begin, 0x1000 + end) for begin, end in ran])
    return {each.name: each for each in subject.measure(executed)}


def test_nothing_was_run(subject: Subject) -> None:
    launch = _measured(subject)["launch"]
    assert (launch.reached, launch.blocks, launch.percent) == (0, 6, 0)
    assert launch.gaps == (
        Gap(0x00, 0x13, ("populate",)),
        # Behind the assertion: not the same piece.
        Gap(0x20, 0x2A, ("reclaim",)),
    )


def test_a_block_is_reached_by_its_first_instruction(subject: Subject) -> None:
    launch = _measured(subject, (0x00, 0x04), (0x04, 0x09), (0x0E, 0x10))["launch"]
    assert (launch.reached, launch.percent) == (2, 33)
    assert launch.gaps == (Gap(0x0C, 0x13, ()), Gap(0x20, 0x2A, ("reclaim",)))


def test_an_assertion_need_not_fail(subject: Subject) -> None:
    measured = _measured(subject, (0x00, 0x13), (0x20, 0x2A))
    assert measured["launch"].percent == 100
    assert measured["launch"].gaps == ()
    assert (measured["alone"].blocks, measured["alone"].percent) == (0, 100)


def test_what_is_excepted_is_not_measured(subject: Subject) -> None:
    assert list(_measured(subject)) == ["alone", "launch", "reclaim", "warns"]


def test_a_group_whose_module_is_not_loaded_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "kvm.ko"
    file.write_bytes(module())
    subject = Subject({"kvm": file}, [GROUP])
    assert subject.measure(Executed(subject.sizes)) == []


def test_the_groups_that_are_shipped_can_be_read() -> None:
    modules = {group.module for group in groups()}
    assert modules == {"kvm", "kvm_amd", "kvm_intel"}
    (snp,) = (group for group in groups() if group.name == "SNP launch")
    assert snp.wants("snp_launch_start")
    assert not snp.wants("snp_handle_guest_req")
