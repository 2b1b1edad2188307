# SPDX-License-Identifier: MIT
"""``python -m kvmharness``: the same as the kvmharness command."""

from __future__ import annotations

from kvmharness.cli import main

if __name__ == "__main__":
    main()
