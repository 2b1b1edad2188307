# SPDX-License-Identifier: MIT
"""What the stand-ins of an emulated host tell; on hardware nothing of it is there."""
