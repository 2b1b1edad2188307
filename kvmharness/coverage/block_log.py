# SPDX-License-Identifier: MIT
"""What QEMU's ``-d in_asm`` writes: the code that a guest ran, block by block.

QEMU translates a block of guest code, up to a branch, a call or a page's end, just before it runs
it for the first time, and writes its instructions then. So what is in the log was run, but for the
rest of a block out of which a fault leads elsewhere; what never ran is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# 0xffffffffc048f019:  e8 42 00 00 00           callq    0xffffffffc048f060
# A long instruction's last bytes have a line of their own, with their address.
_LINE = re.compile(rb"^0x([0-9a-f]+): +([0-9a-f]{2}(?: [0-9a-f]{2})*)(?:  |$)", re.MULTILINE)


def stretches(log: bytes) -> Iterator[tuple[int, int]]:
    """Yield stretches of code that were run: their first address, and the one behind them.

    Lines that follow one another in memory are one stretch; the same code may come again.
    """
    begin = end = 0
    for found in _LINE.finditer(log):
        address, size = int(found[1], 16), (len(found[2]) + 1) // 3
        if address != end:
            if end > begin:
                yield begin, end
            begin = address
        end = address + size
    if end > begin:
        yield begin, end
