# SPDX-License-Identifier: MIT
"""Launch measurements computed from what was launched; nothing here imports KVM."""
