# SPDX-License-Identifier: MIT
"""How an INIT_MEM_REGION is put into the words that a contract holds the kernel to."""

from __future__ import annotations

import pytest

from kvmharness.kvm.result import Result
from kvmharness.scenarios.tdx_bench import region_text

_ASKED = (0x4000, 0x10000, 4)


@pytest.mark.parametrize(
    ("errno", "written_back", "text"),
    [
        (0, (0x8000, 0x14000, 0), "ok +4 left 0"),
        (22, (0x6000, 0x12000, 2), "EINVAL +2 left 2"),
        (14, (0x4000, 0x10000, 4), "EFAULT +0 left 4"),
        (0, (0x8000, 0x10000, 0), "ok +4 left 0 source +0x0"),
        (5, (0x6000, 0x12000, 4), "EIO +2 left 4 pages +0"),
    ],
)
def test_progress_is_in_pages_and_the_odd_is_spelt_out(
    errno: int, written_back: tuple[int, int, int], text: str
) -> None:
    result: Result[int] = Result("x", -1, errno, written_back=written_back, fw_error=0)
    assert region_text(result, _ASKED) == text


def test_a_source_that_wraps_is_not_odd() -> None:
    result: Result[int] = Result("x", 0, written_back=(0x1000, 0, 0), fw_error=0)
    assert region_text(result, (0, (1 << 64) - 0x1000, 1)) == "ok +1 left 0"
