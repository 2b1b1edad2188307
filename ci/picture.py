# SPDX-License-Identifier: MIT
"""The second half of ci/picture: a page of kvmharness matrix --html, whole, as a PNG file."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

from chromium import Browser

#: CSS pixels; a quarter more in the file, so that it stays legible on a fine screen.
WIDTH = 1180


def main(page: str, picture: str) -> None:
    with Browser(WIDTH, 900, scale=1.25) as browser:
        browser.open(Path(page), "picture")
        browser.wait("document.documentElement.classList.contains('picture')")
        browser.screenshot(Path(picture), whole=True)
    shrink(Path(picture))
    print(f"{picture}: {Path(picture).stat().st_size / 1024:.0f} KiB")


def shrink(path: Path) -> None:
    """Compress the picture's pixels again: the browser does it in a hurry."""
    old = path.read_bytes()
    chunks, pixels, at = [], b"", 8
    while at < len(old):
        (length,) = struct.unpack_from(">I", old, at)
        name, body = old[at + 4 : at + 8], old[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IDAT":
            pixels += body
            continue
        if name == b"IEND":
            chunks.append((b"IDAT", zlib.compress(zlib.decompress(pixels), 9)))
        chunks.append((name, body))
    new = old[:8]
    for name, body in chunks:
        new += struct.pack(">I", len(body)) + name + body
        new += struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(new)


if __name__ == "__main__":
    main(*sys.argv[1:])
