# SPDX-License-Identifier: MIT
"""Where the suite and the guest payloads are: at the top of a checkout, or inside the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout_dir() -> Path | None:
    """Return the top of the checkout this package is imported from; None for a wheel."""
    top = _PACKAGE.parent
    return top if (top / "cdefs" / "build.py").is_file() else None


def suite_dir() -> Path:
    """Return the directory with the suite's test files."""
    top = checkout_dir()
    return top / "tests" if top else _PACKAGE / "_suite"


def images_dir() -> Path:
    """Return the directory with the guest payloads and the emulated host's files."""
    top = checkout_dir()
    return top / "vm_images" if top else _PACKAGE / "_images"
