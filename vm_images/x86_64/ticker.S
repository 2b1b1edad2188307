# SPDX-License-Identifier: MIT
#
# ticker: long mode. Counts in memory for ever, without an exit of its own.
#   rdi  gpa of the 64-bit counter (bytes); every vCPU needs its own, the increment is not locked

.globl _start
_start:
        incq    (%rdi)
        jmp     _start
