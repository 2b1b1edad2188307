# SPDX-License-Identifier: MIT
"""What each kernel generation promises, and whether an outcome keeps it."""
