# SPDX-License-Identifier: MIT
"""The cpio writer, checked by a reader of its own."""

from __future__ import annotations

import stat

import pytest

from kvmharness.hosts.initramfs import Initramfs

from .cpio import read


def test_files_directories_links_and_devices_come_out_as_they_went_in() -> None:
    archive = Initramfs()
    archive.file("/init", b"#!/bin/sh\n", 0o755)
    archive.link("bin/sh", "busybox")
    archive.directory("proc")
    archive.character_device("dev/console", 5, 1)
    found = read(archive.to_bytes())
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox", (0, 0))
    assert found["proc"] == (stat.S_IFDIR | 0o755, b"", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    names = list(found)
    assert names.index("bin") < names.index("bin/sh")  # the kernel makes no parents


@pytest.mark.parametrize("length", range(1, 9))
def test_every_length_is_padded(length: int) -> None:
    archive = Initramfs()
    archive.file("f" * length, b"x" * length)
    assert read(archive.to_bytes())["f" * length][1] == b"x" * length
