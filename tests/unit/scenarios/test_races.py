# SPDX-License-Identifier: MIT
from __future__ import annotations

import threading

import pytest

from kvmharness.scenarios.races import meanwhile


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
