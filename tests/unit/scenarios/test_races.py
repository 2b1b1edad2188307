# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno
import threading

import pytest

from kvmharness.kvm.result import Result
from kvmharness.scenarios.races import meanwhile, only


def results(*numbers: int) -> list[Result[int]]:
    return [Result("KVM_X", -1 if number else 0, number) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 0), "ok or EIO"),
        ((0, errno.EIO), "ok or EIO"),
        ((0, errno.EINVAL, errno.EBADF), "also ['EBADF', 'EINVAL']"),
        ((), "none was made"),
    ],
)
def test_a_verdict_on_many_results(numbers: tuple[int, ...], text: str) -> None:
    assert only(results(*numbers), {"EIO", "ok"}) == text


def test_what_is_done_meanwhile_ends_with_the_block() -> None:
    went = threading.Event()
    before = threading.active_count()
    with meanwhile(went.set):
        assert went.wait(10)
    assert threading.active_count() == before


def test_what_is_done_meanwhile_ends_when_the_block_raises() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), meanwhile(int):
        raise ZeroDivisionError
    assert threading.active_count() == before
