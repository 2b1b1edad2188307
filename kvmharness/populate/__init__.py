# SPDX-License-Identifier: MIT
"""What the suite knows about populating private memory: what to try, and what kernels promise."""
