# SPDX-License-Identifier: MIT
"""The kernel's log: reading it, and what in it is a bug that the kernel has found in itself."""
