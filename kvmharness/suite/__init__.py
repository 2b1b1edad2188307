# SPDX-License-Identifier: MIT
"""The pytest plugin, and the supervisor that runs the suite on a host."""
