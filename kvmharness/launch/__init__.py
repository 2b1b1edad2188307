# SPDX-License-Identifier: MIT
"""Launch commands of SEV, SNP and TDX VMs, one method each, and the memory they populate from."""
