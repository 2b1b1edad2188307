# SPDX-License-Identifier: MIT
"""Records of tests, and what becomes of them: terminal, KTAP, JUnit, JSON."""
