# SPDX-License-Identifier: MIT
"""How results become steps: pages done and left, what moved otherwise, many results, facts."""

from __future__ import annotations

import errno

import pytest

from kvmharness.kvm.result import Result
from kvmharness.scenarios.grammar import words
from kvmharness.scenarios.step import Call, Fact, Tally

PAGE = 4096


def result(number: int, *written_back: int, fw_error: int = 0, name: str = "") -> Result[int]:
    status = -1 if number else 0
    return Result("KVM_X", status, number, None, fw_error, written_back or None, fw_error_name=name)


@pytest.mark.parametrize(
    ("number", "written_back", "text"),
    [
        (0, (4 * PAGE, 0x10000 + 4 * PAGE, 0), "ok"),
        (0, (2 * PAGE, 0x10000 + 2 * PAGE, 2 * PAGE), "ok +2 left 2"),
        (0, (0, 0x10000, 4 * PAGE), "ok +0 left 4"),
        (errno.EIO, (0, 0x10000, 4 * PAGE), "EIO"),
        (errno.EIO, (2 * PAGE, 0x10000 + 2 * PAGE, 2 * PAGE), "EIO +2 left 2"),
        (errno.EIO, (4 * PAGE, 0x10000 + 4 * PAGE, 0), "EIO +4 left 0"),
        # A kernel that does not say what it did, each in its own way.
        (0, (4 * PAGE, 0x10000, 0), "ok source +0x0"),
        (0, (4 * PAGE, 0x10000 + 4 * PAGE, PAGE), "ok +4 left 1"),
        (0, (4 * PAGE + 1, 0x10000 + 4 * PAGE, 0), "ok gpa +0x4001"),
        (0, (4 * PAGE, 0x10000 + 4 * PAGE, 5), "ok +4 left 1 size -0x3ffb"),
        (errno.EIO, (PAGE, 0x10000, 3 * PAGE), "EIO +1 left 3 source +0x0"),
        (errno.EIO, (0, 0x10000 - PAGE, 5 * PAGE), "EIO +0 left 5 source -0x1000"),
    ],
)
def test_sizes_in_bytes_and_in_pages_make_the_same_words(
    number: int, written_back: tuple[int, int, int], text: str
) -> None:
    made = result(number, *written_back)
    passed = {"gpa": 0, "source": 0x10000, "bytes": 4 * PAGE}
    assert words(Call.of_pages("x", made, passed)) == text
    gpa, source, size = written_back
    if size % PAGE == 0:
        made = result(number, gpa, source, size // PAGE)
        passed = {"gpa": 0, "source": 0x10000, "pages": 4}
        assert words(Call.of_pages("x", made, passed)) == text


def test_pages_without_contents_leave_the_source_address() -> None:
    passed = {"gpa": 0, "source": 0x10000, "bytes": PAGE}
    stays, moves = result(0, PAGE, 0x10000, 0), result(0, PAGE, 0x10000 + PAGE, 0)
    assert words(Call.of_pages("x", stays, passed, moves_source=False)) == "ok"
    assert words(Call.of_pages("x", moves, passed, moves_source=False)) == "ok source +0x1000"


def test_a_source_that_ends_where_addresses_end_has_moved_on() -> None:
    passed = {"gpa": 0, "source": (1 << 64) - PAGE, "pages": 1}
    assert words(Call.of_pages("x", result(0, PAGE, 0, 0), passed)) == "ok"


def test_a_size_that_is_no_number_of_pages_counts_its_last_one() -> None:
    passed = {"gpa": 0, "source": 0, "bytes": PAGE + 1}
    call = Call.of_pages("x", result(errno.EINVAL, 0, 0, PAGE + 1), passed)
    assert (call.asked, call.done, call.left, words(call)) == (2, 0, 2, "EINVAL")


def test_a_range_without_a_source_is_pre_faulted() -> None:
    call = Call.of_pages("x", result(errno.EIO, PAGE, PAGE), {"gpa": 0, "bytes": 2 * PAGE})
    assert (call.asked, call.done, call.left, words(call)) == (2, 1, 1, "EIO +1 left 1")
    assert call.written_back == {"gpa": (0, PAGE), "bytes": (2 * PAGE, PAGE)}


def test_a_call_without_write_back() -> None:
    made = result(errno.EIO, fw_error=0x16, name="INVALID_PARAM")
    for call in (Call.of("x", made), Call.of_pages("x", made, {"gpa": 0, "bytes": PAGE})):
        assert (call.asked, call.fw_error, words(call)) == (None, 0x16, "EIO fw=INVALID_PARAM")
    assert words(Call.of("x", result(errno.EIO, fw_error=0x999))) == "EIO fw=0x999"


def test_many_results_are_counted_by_name() -> None:
    many = Tally.of("x", [result(0), result(errno.EIO), result(0)])
    assert many.counts == {"ok": 2, "EIO": 1}
    assert Tally.of("x", []).counts == {}


def test_a_fact_answers_in_words_that_a_contract_knows() -> None:
    assert words(Fact("the source page", "corrected", "more of it")) == "= corrected"
    with pytest.raises(ValueError, match="'mended' is no answer"):
        Fact("the source page", "mended")
