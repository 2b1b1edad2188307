# SPDX-License-Identifier: MIT
"""What every SNP test is held to on a host with the stand-in: no page left in a guest's hands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmharness.standins import snp as standin


@pytest.fixture(autouse=True)
def rmp_balance() -> Iterator[None]:
    """Fail the test after which the RMP holds more pages than before: the kernel leaked them.

    On hardware the RMP can't be read, and nothing is checked.
    """
    before = standin.rmp_counts()
    yield
    if before is None:
        return
    after = standin.wait_for_counts(before, seconds=3)
    assert after == before, f"the kernel left pages in the RMP: {before} before, {after} after"
