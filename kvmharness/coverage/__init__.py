# SPDX-License-Identifier: MIT
"""How much of KVM's code a run on an emulated host reached, function by function."""
