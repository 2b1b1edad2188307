# SPDX-License-Identifier: MIT
"""The commands of `kvmharness`, one module each, imported when called."""
