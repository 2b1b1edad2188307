# SPDX-License-Identifier: MIT
"""The binding: one type per fd, each ioctl in a raising and a returning form."""
