# SPDX-License-Identifier: MIT
"""What a series of patches changes: one kernel with and without it, scenario by scenario."""
