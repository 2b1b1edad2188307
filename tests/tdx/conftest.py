# SPDX-License-Identifier: MIT
"""What every TDX test is held to on a host with the stand-in: no page or key is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmharness.standins import tdx as tdx_standin


@pytest.fixture(autouse=True)
def module_balance() -> Iterator[None]:
    """Fail the test after which the TDX module owns more than before: the kernel leaked it.

    On hardware the module can't be asked, and nothing is checked.
    """
    before = tdx_standin.page_counts()
    yield
    if before is None:
        return
    after = tdx_standin.wait_for_counts(before, seconds=3)
    assert after == before, f"the kernel left pages or keys: {before} before, {after} after"
