# SPDX-License-Identifier: MIT
"""The suite's own tests are watched strictly, every one; kvmharness's pytest plugin does it."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.kvmharness_strict = True
