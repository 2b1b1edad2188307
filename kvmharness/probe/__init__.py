# SPDX-License-Identifier: MIT
"""What a host offers, and which paths of the suite would run there."""
