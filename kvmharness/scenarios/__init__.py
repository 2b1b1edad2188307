# SPDX-License-Identifier: MIT
"""What is tried: scenarios, what they need of a host, and what they showed."""
