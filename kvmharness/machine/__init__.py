# SPDX-License-Identifier: MIT
"""A VM as a whole: described by a builder, run, read and written, closed as one."""
