# SPDX-License-Identifier: MIT
"""What the codes of SEV's firmware and of the TDX module mean, in a sentence each.

From "SEV Secure Nested Paging Firmware ABI Specification" (status codes) and "Intel TDX Module ABI
Specification" (completion status codes): those that a launch meets.
"""

from __future__ import annotations

_MEANINGS = {
    # SEV-SNP
    "BAD_MEASUREMENT": "the launch digest is not the one in the ID block",
    "BAD_SIGNATURE": "the ID block's or the author key's signature does not verify",
    "DFFLUSH_REQUIRED": "an ASID was given back since caches were last flushed (DF_FLUSH)",
    "INVALID_ADDRESS": "an address is unaligned, reserved, or not the hypervisor's",
    "INVALID_GUEST_STATE": "the guest is not in the launch's state that the command wants: not "
    "started, or finished",
    "INVALID_PAGE_SIZE": "the page's size is not the one that the RMP has for it",
    "INVALID_PAGE_STATE": "the RMP does not have the page in the state that the command wants",
    "INVALID_PARAM": "a parameter is not allowed; of a CPUID page: a value that the processor does "
    "not have, which the firmware puts right in the page it was given",
    "POLICY_FAILURE": "the guest's policy does not allow this host: its SMT, its firmware version, "
    "its sockets, debugging or migration",
    "RESOURCE_LIMIT": "the firmware is out of room of its own, for guests for instance",
    # TDX
    "NO_VCPUS": "no vCPU was initialized: KVM_TDX_INIT_VCPU comes before KVM_TDX_FINALIZE_VM",
    "OPERAND_BUSY": "another call holds the operand: try again",
    "OPERAND_INVALID": "an operand is not allowed",
    "OP_STATE_INCORRECT": "the TD is not in the launch's state that the call wants",
    "RND_NO_ENTROPY": "the processor has no entropy left for a moment: try again",
}


def firmware_meaning(name: str) -> str:
    """Return what a code's name means, an operand after a colon included; empty if not known."""
    code, _, operand = name.partition(":")
    meaning = _MEANINGS.get(code, "")
    return f"{meaning} ({operand})" if meaning and operand else meaning
