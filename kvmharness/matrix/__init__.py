# SPDX-License-Identifier: MIT
"""The matrix: what each of several kernels does with each scenario, side by side."""
