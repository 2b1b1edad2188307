# SPDX-License-Identifier: MIT
"""Inside the block nothing makes another fd; afterwards all is as before."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from kvmharness.scenarios.few_fds import no_more_fds


def test_no_fd_can_be_made_inside() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with no_more_fds(), pytest.raises(OSError, match="Too many open files") as caught:
        os.dup(0)
    assert caught.value.errno == errno.EMFILE
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    os.close(os.dup(0))
