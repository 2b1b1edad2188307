# SPDX-License-Identifier: MIT
#
# spin16: real mode. Runs for ever without an exit of its own. No arguments.

.code16
.globl _start
_start:
        jmp     _start
