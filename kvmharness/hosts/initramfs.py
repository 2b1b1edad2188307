# SPDX-License-Identifier: MIT
"""Initial RAM file systems: an archive in cpio's newc format, written here and not by a tool.

Layout: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True)
class _Entry:
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


@dataclass
class Initramfs:
    """Files, directories, links and device nodes, all root's; parents are made as needed."""

    _entries: dict[str, _Entry] = field(default_factory=dict)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add an empty directory."""
        self._put(path, _Entry(stat.S_IFDIR | mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._put(path, _Entry(stat.S_IFREG | mode, data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._put(path, _Entry(stat.S_IFLNK | 0o777, target.encode()))

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._put(path, _Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def _put(self, path: str, entry: _Entry) -> None:
        name = path.strip("/")
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            self._entries.setdefault(str(parent), _Entry(stat.S_IFDIR | 0o755))
        self._entries[name] = entry

    def to_bytes(self) -> bytes:
        """Return the archive, uncompressed: unpacking is work that an emulated processor feels."""
        out = bytearray()
        for inode, (name, entry) in enumerate(self._entries.items(), start=1):
            _append(out, inode, name, entry)
        _append(out, 0, "TRAILER!!!", _Entry(0))
        return bytes(out)


def _append(out: bytearray, inode: int, name: str, entry: _Entry) -> None:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # device holding the file
        0,
        *entry.device,
        len(path),
        0,  # checksum: none in this variant
    )
    out += b"070701" + b"".join(b"%08X" % value for value in fields) + path
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)
