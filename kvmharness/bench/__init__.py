# SPDX-License-Identifier: MIT
"""How fast the harness is, beside C that does the same work in the same run."""
