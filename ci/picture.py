# SPDX-License-Identifier: MIT
"""The second half of ci/picture: a page of kvmharness matrix --html, whole, as a PNG file."""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import Browser

#: CSS pixels; half as many again in the file, so that it stays sharp on a fine screen.
WIDTH = 1180


def main(page: str, picture: str) -> None:
    with Browser(WIDTH, 900, scale=1.5) as browser:
        browser.open(Path(page), "picture")
        browser.wait("document.documentElement.classList.contains('picture')")
        browser.screenshot(Path(picture), whole=True)
    print(f"{picture}: {Path(picture).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
