# SPDX-License-Identifier: MIT
"""The SNP launch digest, page by page, as the firmware extends it.

Source: SEV-SNP Firmware ABI Specification (publication 56860), section 8.17.2, PAGE_INFO.
"""

from __future__ import annotations

import hashlib
import struct

_DIGEST_SIZE = 48
_PAGE_INFO_SIZE = 0x70

#: Page types whose contents are measured: NORMAL and VMSA. Of the others the type and gpa are.
_MEASURED = (1, 2)


class LaunchDigest:
    """A launch digest in the making; begins as 48 zero bytes with LAUNCH_START."""

    def __init__(self) -> None:
        self._digest = bytes(_DIGEST_SIZE)
        self.pages = 0

    def update(self, page_type: int, gpa: int, contents: bytes) -> None:
        """Extend by one page: `page_type` of LAUNCH_UPDATE (or 2, VMSA), `gpa` in bytes.

        `contents` are the page's 4096 bytes; of types whose contents are not measured they are
        not looked at.
        """
        measured = bytes(_DIGEST_SIZE)
        if page_type in _MEASURED:
            measured = hashlib.sha384(contents).digest()
        # After the type: IMI_PAGE, the VMPL permissions 3 to 1, reserved: all 0 under KVM.
        info = struct.pack(
            f"<{_DIGEST_SIZE}s{_DIGEST_SIZE}sHB5xQ",
            self._digest,
            measured,
            _PAGE_INFO_SIZE,
            page_type,
            gpa,
        )
        self._digest = hashlib.sha384(info).digest()
        self.pages += 1

    def hexdigest(self) -> str:
        """Return the digest so far in hex."""
        return self._digest.hex()
