# SPDX-License-Identifier: MIT
"""Taking a module's functions apart: blocks, callees, assertions."""

from __future__ import annotations

import pytest

from kvmharness.coverage.code import Block, Function, functions
from kvmharness.kernels.elf import Module

from .samples import module

pytest.importorskip("capstone")


@pytest.fixture(scope="module")
def found() -> dict[str, Function]:
    everything = functions(Module(module()), lambda name: True)
    return {function.name: function for function in everything}


def test_variants_have_their_name_in_the_source(found: dict[str, Function]) -> None:
    assert list(found) == ["alone", "convert", "launch", "reclaim", "warns"]


def test_blocks_end_at_jumps_and_begin_at_their_targets(found: dict[str, Function]) -> None:
    assert found["launch"].blocks == (
        Block(0x00, 0x04),
        Block(0x04, 0x0A, ("populate",)),
        Block(0x0C, 0x10),
        Block(0x10, 0x12),
        Block(0x12, 0x13),  # where the unlikely part comes back to
        Block(0x13, 0x16, (), aside=True),
        Block(0x20, 0x2A, ("reclaim",)),  # the unlikely part
    )


def test_a_static_branch_enters_a_block(found: dict[str, Function]) -> None:
    assert [(b.begin, b.end) for b in found["convert"].blocks] == [(0x40, 0x46), (0x46, 0x49)]


def test_a_jump_to_another_function_is_a_call(found: dict[str, Function]) -> None:
    assert found["reclaim"].blocks == (Block(0x30, 0x36, ("release",)),)


def test_what_leads_to_an_assertion_only_is_aside_too(found: dict[str, Function]) -> None:
    aside = [(block.begin, block.aside) for block in found["warns"].blocks]
    assert aside == [(0x60, False), (0x64, False), (0x65, True), (0x69, True)]


def test_only_what_is_wanted_is_taken_apart() -> None:
    wanted = functions(Module(module()), lambda name: name == "reclaim")
    assert [function.name for function in wanted] == ["reclaim"]
