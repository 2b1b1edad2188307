# SPDX-License-Identifier: MIT
"""Kernels to boot: packaged ones and build trees, the modules built for them, the cache."""
