# SPDX-License-Identifier: MIT
"""What QEMU writes of the code that it translates, read back."""

from __future__ import annotations

from kvmharness.coverage.block_log import stretches

#: As QEMU 10.0 has it; the second block's last instruction takes two lines.
LOG = b"""\
----------------
IN: 
0xffffffffc048f010:  f3 0f 1e fa              endbr64  
0xffffffffc048f014:  0f 1f 44 00 00           nopl     (%rax, %rax)
0xffffffffc048f019:  e8 42 00 00 00           callq    0xffffffffc048f060

----------------
IN: 
0xffffffffc048f060:  31 c0                    xorl     %eax, %eax
0xffffffffc048f062:  65 48 c7 04 25 28 00 00  movq     $0x1, %gs:0x28
0xffffffffc048f06a:  00 01 00 00 00

----------------
IN: 
0xffffffffc048f01e:  c3                       retq     

"""  # noqa: W291


def test_a_block_is_a_stretch_of_addresses() -> None:
    assert list(stretches(LOG)) == [
        (0xFFFFFFFFC048F010, 0xFFFFFFFFC048F01E),
        (0xFFFFFFFFC048F060, 0xFFFFFFFFC048F06F),
        (0xFFFFFFFFC048F01E, 0xFFFFFFFFC048F01F),
    ]


def test_a_log_without_code_has_no_stretches() -> None:
    assert list(stretches(b"")) == []
    assert list(stretches(b"----------------\nIN: \n\n")) == []


def test_a_log_that_was_cut_off_counts_up_to_its_last_whole_line() -> None:
    cut = LOG[: LOG.index(b"0f 1f 44") + 4]
    assert list(stretches(cut)) == [(0xFFFFFFFFC048F010, 0xFFFFFFFFC048F014)]
